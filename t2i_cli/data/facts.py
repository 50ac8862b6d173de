"""What was seen of each picture file, kept in the cache, so that nothing is read twice while it does not change.

A file is known again by its size, its times of change and its number on the disk, as git does it:
what changed less than two seconds before it was read is not kept, since it could change again
within the same tick of the clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from t2i_cli.data.report import Record
from t2i_cli.leftovers import hold, sweep

__all__ = ["LEAST", "Facts", "Seen"]

LEAST = 1000  # pictures; fewer are read again in seconds, and nothing is kept of them
_FORMAT = 2  # raise it when a decoder sees a file otherwise
_FRESH = 2.0  # s
_PART = ".part"  # what is not finished


@dataclass(frozen=True, slots=True)
class Seen:
    """What reading a picture found."""

    sha256: str  # of the file's bytes; empty where they could not be read
    width: int = 0  # px, upright
    height: int = 0
    has_alpha: bool = False
    error: str = ""  # why it could not be decoded, one line
    own: bool = False  # whether it lies in an archive and t2i drew it


class Facts:
    """The facts of one data set's files; none where there is no cache.

    Args:
        cache: the cache's folder, or None to know and keep nothing.
        path: the data set.
    """

    def __init__(self, cache: Path | None, path: Path) -> None:
        self._file: Path | None = None
        self._known: dict[str, bytes] = {}
        self._stamps: dict[str, str] = {}
        self._new: dict[str, bytes] = {}
        self._started = time.time()
        if cache is not None:
            place = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
            self._file = cache / "facts" / f"{place}.jsonl"
            with contextlib.suppress(OSError):
                self._load()

    def _load(self) -> None:
        assert self._file is not None
        with self._file.open("rb") as file:
            if file.readline().strip() != str(_FORMAT).encode():
                return
            for line in file:
                name, tab, rest = line.partition(b"\t")
                if tab and rest.endswith(b"]\n"):
                    self._known[name.decode("utf-8", "surrogateescape")] = rest

    def seen(self, record: Record) -> Seen | None:
        """What is known of a record's file, where it has not changed."""
        return self._seen(record.name, record.place.file)

    def is_data(self, name: str, file: str) -> bool:
        """Whether a file is known, and so was a picture of somebody else's when it was read."""
        return self._seen(name, file) is not None

    def _seen(self, name: str, file: str) -> Seen | None:
        line = self._known.get(_key(name))
        if line is None:
            return None
        try:
            stamp, sha256, width, height, has_alpha, error, own = json.loads(line)
            if stamp != self._stamp(file):
                return None
            return Seen(
                str(sha256), int(width), int(height), bool(has_alpha), str(error), bool(own)
            )
        except (ValueError, TypeError):
            return None

    def note(self, record: Record, seen: Seen) -> None:
        """Keep what was seen of a record's file."""
        if self._file is None:
            return
        row = [
            self._stamp(record.place.file),
            seen.sha256,
            seen.width,
            seen.height,
            seen.has_alpha,
            seen.error,
            seen.own,
        ]
        self._new[_key(record.name)] = json.dumps(row, separators=(",", ":")).encode() + b"\n"

    def keep(self, records: Iterable[Record]) -> None:
        """Write the facts of these records; a cache that cannot be written costs nothing but time."""
        if self._file is None or not self._new:
            return
        wanted = [_key(record.name) for record in records]
        if len(wanted) < LEAST:
            return
        both: Mapping[str, bytes] = {**self._known, **self._new}
        part = self._file.with_name(f"{self._file.name}.{secrets.token_hex(4)}{_PART}")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            sweep(str(part.parent), lambda name: name.endswith(_PART))
            with part.open("wb") as file:
                if not hold(file.fileno(), str(part)):
                    return  # another one took it for a leftover
                file.write(f"{_FORMAT}\n".encode())
                file.writelines(_lines(wanted, both))
            part.replace(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    def _stamp(self, file: str) -> str:
        """What tells that a file is the same; a fresh one is never the same."""
        if (stamp := self._stamps.get(file)) is not None:
            return stamp
        try:
            state = os.stat(file)  # noqa: PTH116
        except OSError:
            return secrets.token_hex(8)
        if max(state.st_mtime, state.st_ctime) > self._started - _FRESH:
            stamp = secrets.token_hex(8)
        else:
            stamp = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
        if len(self._stamps) < 1024:  # shards have many pictures each
            self._stamps[file] = stamp
        return stamp


def _key(name: str) -> str:
    return name.replace("\t", " ").replace("\n", " ")


def _lines(keys: Iterable[str], rows: Mapping[str, bytes]) -> Iterator[bytes]:
    for key in keys:
        if (row := rows.get(key)) is not None:
            yield key.encode("utf-8", "surrogateescape") + b"\t" + row
