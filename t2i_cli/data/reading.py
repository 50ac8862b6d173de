"""Records -> square pictures, in order, decoded by a few threads; a broken one comes as its error."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from t2i_cli.data.report import Record
from t2i_cli.data.shards import is_compressed, open_shard
from t2i_cli.errors import DataError
from t2i_cli.images import MAX_FILE_BYTES, Picture, quiet, read_picture
from t2i_cli.metadata import MARKS

__all__ = ["Read", "processors", "read_pictures"]

_CHUNK = 64  # records a task: enough work to hide the hand-over, little enough memory
_CHUNK_BYTES = 1 << 26  # and at most so many bytes read ahead for one


@dataclass(frozen=True)
class Read:
    """What became of one record."""

    record: Record
    sha256: str  # of the file's bytes; empty where they could not be read
    picture: Picture | None  # None where it could not be decoded
    error: str = ""  # why not, one line
    own: bool = False  # whether t2i drew it


@dataclass(frozen=True)
class _Task:
    records: list[Record]
    contents: list[bytes | str] | None  # bytes, or why there are none; None: the thread reads them


def read_pictures(
    records: Sequence[Record],
    resolution: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> Iterator[Read]:
    """Decode every record's picture to ``resolution`` px, in order.

    Args:
        records: what to read; those of one shard should be neighbours.
        resolution: px, the side of the squares.
        progress: called with (done, total) now and then.
        workers: threads that decode; 0: as many as there are processors.
    """
    workers = workers or processors()
    done = 0
    waiting: deque[Future[list[Read]]] = deque()
    with quiet(), ThreadPoolExecutor(workers, "t2i-decode") as pool:
        try:
            for task in _tasks(records):
                waiting.append(pool.submit(_run, task, resolution))
                if len(waiting) > 2 * workers:
                    found = waiting.popleft().result()
                    yield from found
                    done += len(found)
                    if progress:
                        progress(done, len(records))
            while waiting:
                found = waiting.popleft().result()
                yield from found
                done += len(found)
                if progress:
                    progress(done, len(records))
        finally:
            for future in waiting:
                future.cancel()


def processors() -> int:
    """How many threads read and decode: the processors that this process may use, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(16, len(os.sched_getaffinity(0))))
    return max(1, min(16, os.cpu_count() or 1))


def _tasks(records: Sequence[Record]) -> Iterator[_Task]:
    """Neighbouring records, a task's worth at a time. Compressed shards are read here, in one go."""
    stream: BinaryIO | None = None
    path = ""
    some: list[Record] = []
    contents: list[bytes | str] | None = None
    size = 0
    try:
        for record in records:
            compressed = record.size >= 0 and is_compressed(record.file)
            full = len(some) == _CHUNK or size > _CHUNK_BYTES
            if some and (full or compressed != (contents is not None)):
                yield _Task(some, contents)
                some, size = [], 0
                contents = None
            if compressed:
                if record.file != path:
                    if stream is not None:
                        stream.close()
                    path, stream = record.file, open_shard(record.file)
                content = _content_or_reason(record, stream)
                contents = [] if contents is None else contents
                contents.append(content)
                size += len(content)
            some.append(record)
        if some:
            yield _Task(some, contents)
    finally:
        if stream is not None:
            stream.close()


def _run(task: _Task, resolution: int) -> list[Read]:
    found: list[Read] = []
    path, file = "", None
    try:
        for index, record in enumerate(task.records):
            if task.contents is not None:
                content = task.contents[index]
            else:
                if record.size >= 0 and record.file != path:
                    if file is not None:
                        file.close()
                    path, file = record.file, open_shard(record.file)
                content = _content_or_reason(record, file)
            found.append(_decode(record, content, resolution))
    finally:
        if file is not None:
            file.close()
    return found


def _decode(record: Record, content: bytes | str, resolution: int) -> Read:
    if isinstance(content, str):
        return Read(record, "", None, content)
    digest = hashlib.sha256(content).hexdigest()
    own = record.size >= 0 and any(mark in content for mark in MARKS)  # a file was looked at before
    try:
        picture = read_picture(content, name=record.name, resolution=resolution)
    except DataError as error:
        return Read(record, digest, None, str(error))
    return Read(record, digest, picture, own=own)


def _content_or_reason(record: Record, file: BinaryIO | None) -> bytes | str:
    try:
        return _content(record, file)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return f"{record.name}: {getattr(error, 'strerror', None) or error}"


def _content(record: Record, file: BinaryIO | None) -> bytes:
    if file is None or record.size < 0:
        path = Path(record.file)
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe would wait for ever
            raise ValueError("not a regular file")
        if state.st_size > MAX_FILE_BYTES:
            raise ValueError(
                f"{state.st_size >> 20} MB, and at most {MAX_FILE_BYTES >> 20} are read"
            )
        return path.read_bytes()
    file.seek(record.offset)
    data = file.read(record.size)
    if len(data) < record.size:
        raise ValueError("truncated")
    return data
