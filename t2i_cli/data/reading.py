"""Records -> square pictures, decoded by a few threads, in order; what cannot be decoded comes as its error."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from t2i_cli.data.layouts import open_stream
from t2i_cli.data.report import Record
from t2i_cli.errors import DataError
from t2i_cli.images import MAX_FILE_BYTES, Picture, quiet, read_picture

__all__ = ["Read", "read_pictures", "workers_here"]

_CHUNK = 64  # records a task: enough work to hide the hand-over, little enough memory


@dataclass(frozen=True)
class Read:
    """What became of one record."""

    record: Record
    sha256: str  # of the file's bytes; empty where they could not be read
    picture: Picture | None  # None where it could not be decoded
    error: str = ""  # why not, one line


def workers_here() -> int:
    """How many threads decode: the processors that this process may use, at most 16."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, count))


def read_pictures(
    records: Sequence[Record],
    resolution: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Read]:
    """Decode every record's picture to ``resolution`` px, in order.

    Args:
        records: what to read; those of one shard should be neighbours.
        resolution: px, the side of the squares.
        progress: called with (done, total) now and then.
    """
    chunks = [records[start : start + _CHUNK] for start in range(0, len(records), _CHUNK)]
    done = 0
    with quiet(), ThreadPoolExecutor(workers_here(), "t2i-decode") as pool:
        waiting: deque[Future[list[Read]]] = deque()
        todo = iter(chunks)
        try:
            for chunk in todo:
                waiting.append(pool.submit(_read_chunk, chunk, resolution))
                if len(waiting) > 2 * workers_here():
                    yield from (found := waiting.popleft().result())
                    done += len(found)
                    if progress:
                        progress(done, len(records))
            while waiting:
                yield from (found := waiting.popleft().result())
                done += len(found)
                if progress:
                    progress(done, len(records))
        finally:
            for future in waiting:
                future.cancel()


def _read_chunk(records: Iterable[Record], resolution: int) -> list[Read]:
    found: list[Read] = []
    path, file = "", None
    try:
        for record in records:
            try:
                if record.size >= 0 and record.file != path:
                    if file is not None:
                        file.close()
                    path, file = record.file, open_stream(record.file)
                data = _content(record, file)
            except (OSError, EOFError, DataError) as error:
                found.append(Read(record, "", None, _reason(record, error)))
                continue
            digest = hashlib.sha256(data).hexdigest()
            try:
                picture = read_picture(data, name=record.name, resolution=resolution)
            except DataError as error:
                found.append(Read(record, digest, None, str(error)))
            else:
                found.append(Read(record, digest, picture))
    finally:
        if file is not None:
            file.close()
    return found


def _content(record: Record, file: BinaryIO | None) -> bytes:
    if record.size < 0:
        path = Path(record.file)
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe would wait for ever
            raise DataError(f"{record.name}: not a regular file")
        if state.st_size > MAX_FILE_BYTES:
            raise DataError(f"{record.name}: {state.st_size >> 20} MB is more than the {MAX_FILE_BYTES >> 20} MB that are read")
        return path.read_bytes()
    assert file is not None
    file.seek(record.offset)
    data = file.read(record.size)
    if len(data) < record.size:
        raise DataError(f"{record.name}: truncated")
    return data


def _reason(record: Record, error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    return f"{record.name}: {getattr(error, 'strerror', None) or error}"
