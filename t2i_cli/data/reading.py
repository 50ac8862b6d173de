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
from typing import Any, BinaryIO, cast

from t2i_cli.data.facts import Seen
from t2i_cli.data.layouts import image_parquet
from t2i_cli.data.listing import open_archive
from t2i_cli.data.report import Record
from t2i_cli.errors import DataError
from t2i_cli.images import MAX_FILE_BYTES, Fit, Picture, quiet, read_picture
from t2i_cli.metadata import MARKS

__all__ = ["Read", "processors", "read_pictures"]

_CHUNK = 64  # records a task: enough work to hide the hand-over, little enough memory
_CHUNK_BYTES = 1 << 26  # and at most so many bytes read ahead for one


@dataclass(frozen=True)
class Read:
    """What became of one record."""

    record: Record
    seen: Seen
    picture: Picture | None  # None where it could not be decoded, or was known already


@dataclass(frozen=True)
class _Task:
    records: list[Record]
    contents: list[bytes | str] | None  # bytes, or why there are none; None: the thread reads them


def read_pictures(
    records: Sequence[Record],
    resolution: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
    fit: Fit | None = None,
) -> Iterator[Read]:
    """Decode every record's picture to ``resolution`` px, in order.

    Args:
        records: what to read; those of one archive should be neighbours.
        resolution: px, the side of the squares.
        progress: called with (done, total) now and then, first before anything is done.
        workers: threads that decode; 0: as many as there are processors.
        fit: for pictures that are not square; see `images.fit`.
    """
    workers = workers or processors()
    done = 0
    waiting: deque[Future[list[Read]]] = deque()
    if progress and records:
        progress(0, len(records))
    with quiet(), ThreadPoolExecutor(workers, "t2i-decode") as pool:
        try:
            for task in _tasks(records):
                waiting.append(pool.submit(_run, task, resolution, fit))
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


class _InOrder:
    """Reads what can only be read forwards: compressed shards, and the pictures of Parquet files."""

    def __init__(self) -> None:
        self._path = ""
        self._stream: BinaryIO | None = None
        self._rows: Iterator[tuple[int, bytes | str]] = iter(())

    def content(self, record: Record) -> bytes | str:
        """A record's bytes, or why there are none."""
        place = record.place
        try:
            if place.file != self._path:
                self.close()
                self._path = place.file
                if place.kind == "parquet":
                    self._rows = _parquet_pictures(place.file)
                else:
                    self._stream = open_archive(place.file)
            if self._stream is not None:
                return place.read(self._stream)
            for number, content in self._rows:
                if number == place.offset:
                    return content if isinstance(content, bytes) else f"{record.name}: {content}"
            return f"{record.name}: truncated"
        except (OSError, EOFError, ValueError, zlib.error) as error:
            return f"{record.name}: {getattr(error, 'strerror', None) or error}"

    def close(self) -> None:
        """Close the file that is open."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._path, self._rows = None, "", iter(())


def _parquet_pictures(path: str) -> Iterator[tuple[int, bytes | str]]:
    """The number of each row of a Parquet file with the bytes of its picture, or why there are none."""
    from pyarrow import parquet  # pyright: ignore

    file: Any = parquet.ParquetFile(path)  # pyright: ignore
    column = image_parquet.image_column(file)
    if column is None:
        return
    for first, rows in image_parquet.batches(file, [column]):
        for number, row in enumerate(rows, first):
            value = row[column]
            if isinstance(value, dict):
                value = cast("dict[str, object]", value).get("bytes")
            yield number, value if isinstance(value, bytes) else "no picture in this row"


def _tasks(records: Sequence[Record]) -> Iterator[_Task]:
    """Neighbouring records, a task's worth at a time. What can only be read forwards is read here."""
    forwards = _InOrder()
    some: list[Record] = []
    contents: list[bytes | str] | None = None
    size = 0
    try:
        for record in records:
            in_order = record.place.in_order
            full = len(some) == _CHUNK or size > _CHUNK_BYTES
            if some and (full or in_order != (contents is not None)):
                yield _Task(some, contents)
                some, size = [], 0
                contents = None
            if in_order:
                content = forwards.content(record)
                contents = [] if contents is None else contents
                contents.append(content)
                size += len(content)
            some.append(record)
        if some:
            yield _Task(some, contents)
    finally:
        forwards.close()


def _run(task: _Task, resolution: int, fit: Fit | None) -> list[Read]:
    found: list[Read] = []
    path, file = "", None
    try:
        for index, record in enumerate(task.records):
            if task.contents is not None:
                content = task.contents[index]
            else:
                place = record.place
                if place.kind != "file" and place.file != path:
                    if file is not None:
                        file.close()
                    path, file = place.file, open_archive(place.file)
                content = _content_or_reason(record, file)
            found.append(_decode(record, content, resolution, fit))
    finally:
        if file is not None:
            file.close()
    return found


def _decode(record: Record, content: bytes | str, resolution: int, fit: Fit | None) -> Read:
    if isinstance(content, str):
        return Read(record, Seen("", error=content), None)
    digest = hashlib.sha256(content).hexdigest()
    # a file of its own was looked at before
    own = record.place.kind != "file" and any(mark in content for mark in MARKS)
    try:
        picture = read_picture(content, name=record.name, resolution=resolution, how=fit)
    except DataError as error:
        return Read(record, Seen(digest, error=str(error)), None)
    seen = Seen(digest, picture.width, picture.height, picture.has_alpha, own=own)
    return Read(record, seen, picture)


def _content_or_reason(record: Record, file: BinaryIO | None) -> bytes | str:
    try:
        return _content(record, file)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return f"{record.name}: {getattr(error, 'strerror', None) or error}"


def _content(record: Record, file: BinaryIO | None) -> bytes:
    if record.place.kind == "file" or file is None:
        path = Path(record.place.file)
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe would wait for ever
            raise ValueError("not a regular file")
        if state.st_size > MAX_FILE_BYTES:
            raise ValueError(
                f"{state.st_size >> 20} MB, and at most {MAX_FILE_BYTES >> 20} are read"
            )
        return path.read_bytes()
    return record.place.read(file)
