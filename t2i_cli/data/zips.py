"""A zip file -> the place of each plain file in it. Nothing is extracted, no link is followed."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from t2i_cli.data.tar import Ending, Member, Skipped

__all__ = ["members", "read"]

_LOCAL = struct.Struct("<4s5H3I2H")  # the header in front of a member's bytes
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def members(path: Path, max_size: int) -> Iterator[Member | Skipped | Ending]:
    """What a zip's directory lists, in the order of the file; an `Ending` comes last.

    Args:
        path: the file.
        max_size: bytes; larger members are skipped.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError):
        yield Ending(whole=False, marked=False, why="not a zip file, or cut off")
        return
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.filename.endswith("/"):
            continue
        if kind not in (0, stat.S_IFREG):
            yield Skipped(info.filename, "a link" if kind == stat.S_IFLNK else "not a plain file")
        elif info.flag_bits & 1:
            yield Skipped(info.filename, "encrypted")
        elif info.header_offset < 0:  # bytes are missing in front of the directory
            yield Skipped(info.filename, "cut off")
        elif info.compress_type not in _METHODS:
            yield Skipped(info.filename, "packed in a way that is not read")
        elif max(info.file_size, info.compress_size) > max_size:
            yield Skipped(info.filename, f"larger than {max_size >> 20} MB")
        else:
            packed = info.compress_size if info.compress_type == zipfile.ZIP_DEFLATED else -1
            yield Member(
                info.filename.replace("\\", "/"), info.header_offset, info.file_size, packed
            )
    yield Ending(whole=True, marked=True)


def read(file: BinaryIO, offset: int, size: int, packed: int) -> bytes:
    """A member's bytes; never more than ``size``, whatever is packed.

    Args:
        file: the zip.
        offset: byte where the member's own header begins.
        size: bytes of the member, unpacked.
        packed: bytes of it in the file; -1 where they are stored as they are.

    Raises:
        ValueError: cut off, or not what the directory says.
    """
    file.seek(offset)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
        raise ValueError("truncated")
    *_, name, extra = _LOCAL.unpack(head)
    file.seek(offset + _LOCAL.size + name + extra)
    if packed < 0:
        data = file.read(size)
    else:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(packed), size + 1)
        except zlib.error:
            raise ValueError("broken") from None
    if len(data) != size:
        raise ValueError("truncated" if len(data) < size else "broken")
    return data
