"""A tar stream -> the place of each regular file in it. Nothing is extracted, and only headers are read.

The standard library's reader stops at a cut in silence and reads extended headers of any size into
memory; this one says how the stream ended, and passes over links, devices and oversize members.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["BLOCK", "Ending", "Member", "Skipped", "members"]

BLOCK = 512  # bytes
_MAX_HEADER = 64 * 1024  # bytes, of an extended header
_MAX_SIZE = 2**50  # bytes; a header that says more is broken


@dataclass(frozen=True)
class Member:
    """A regular file in the stream."""

    name: str
    offset: int  # byte where its content begins; in a zip, its header
    size: int  # bytes
    packed: int = -1  # bytes in a zip, where it is packed


@dataclass(frozen=True)
class Skipped:
    """Something in the stream that is not read."""

    name: str
    why: str


@dataclass(frozen=True)
class Ending:
    """How the stream ended; always the last thing that `members` yields."""

    whole: bool  # nothing is cut off or broken
    marked: bool  # the end marker was there
    why: str = ""


def members(file: BinaryIO, max_size: int, length: int = -1) -> Iterator[Member | Skipped | Ending]:
    """Walk a tar stream (ustar, GNU and pax headers) from its beginning.

    Args:
        file: seekable forwards; must not be moved by others while this runs, except back to where
            it was.
        max_size: bytes; larger members are skipped.
        length: bytes in the whole stream where that is known, -1 where only reading tells.
    """
    position = 0
    pending: dict[str, str] = {}  # what an extended header says of the next member
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if not header:
            if position == 0:
                yield Ending(whole=False, marked=False, why="an empty file")
            elif min(length if length >= 0 else position, file.tell()) < position:
                yield Ending(whole=False, marked=False, why="cut off between members")
            else:
                yield Ending(whole=True, marked=False, why="it has no end marker")
            return
        if len(header) < BLOCK:
            yield Ending(whole=False, marked=False, why="cut off in a header")
            return
        if header.count(0) == BLOCK:
            yield Ending(whole=True, marked=True)
            return
        parsed = _parse(header)
        if parsed is None:
            yield Ending(
                whole=False, marked=False, why="a broken header" if position else "not a tar file"
            )
            return
        name, size, kind = parsed
        position += BLOCK
        if kind in b"xgLK":
            content = file.read(min(size, _MAX_HEADER))
            if len(content) < min(size, _MAX_HEADER):
                yield Ending(whole=False, marked=False, why="cut off in a header")
                return
            if size > _MAX_HEADER:
                yield Skipped(name, "an oversize header")
            elif kind == b"L":
                pending["path"] = content.split(b"\0", 1)[0].decode("utf-8", "replace")
            elif kind == b"x":
                pending.update(_pax(content))
        else:
            name = pending.get("path", name)
            if pending.get("size", "").isdecimal() and len(pending["size"]) < 20:
                size = int(pending["size"])
            sparse = any(key.startswith("GNU.sparse") for key in pending)
            pending = {}
            if kind in (b"0", b"\0", b"7") and not sparse:
                if size > max_size:
                    yield Skipped(name, f"larger than {max_size >> 20} MB")
                elif not name.endswith("/"):
                    if not _reaches(file, position + size, length):
                        yield Ending(whole=False, marked=False, why=f"cut off in {name}")
                        return
                    yield Member(name, position, size)
            elif kind != b"5":
                links = {
                    b"1": "a link",
                    b"2": "a link",
                    b"3": "a device",
                    b"4": "a device",
                    b"6": "a pipe",
                }
                yield Skipped(
                    name,
                    "a sparse file"
                    if sparse or kind == b"S"
                    else links.get(kind, "not a regular file"),
                )
            if kind in b"123456":
                size = 0
        position += -(-size // BLOCK) * BLOCK


def _reaches(file: BinaryIO, end: int, length: int) -> bool:
    """Whether the stream goes on to byte ``end``."""
    if length >= 0:
        return end <= length
    file.seek(end - 1)
    return bool(file.read(1))


def _parse(header: bytes) -> tuple[str, int, bytes] | None:
    """Name, size in bytes and type flag, or None where the checksum or a field is wrong."""
    name, size, checksum, kind, magic, prefix = struct.unpack(
        "100s24x12s12x8sc100x6s82x155s12x", header
    )
    stored = _number(checksum)
    # the checksum counts its own field as blanks
    if stored is None or sum(header) - sum(checksum) + 8 * 32 != stored:
        return None
    length = _number(size)
    if length is None or not 0 <= length < _MAX_SIZE:
        return None
    whole = name.split(b"\0", 1)[0]
    if magic == b"ustar\0" and prefix[0]:
        whole = prefix.split(b"\0", 1)[0] + b"/" + whole
    return whole.decode("utf-8", "replace"), length, kind


def _number(field: bytes) -> int | None:
    """An octal field, or GNU's base-256 form."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None


def _pax(content: bytes) -> dict[str, str]:
    r"""The records "length key=value\n" of a pax header; what is broken ends the reading."""
    found: dict[str, str] = {}
    while content:
        digits, _, _ = content.partition(b" ")
        if not digits.isdigit() or len(digits) > 6 or not 0 < int(digits) <= len(content):
            break
        record, content = content[len(digits) + 1 : int(digits) - 1], content[int(digits) :]
        key, _, value = record.partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found
