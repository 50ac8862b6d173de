"""Bytes of a picture file -> what its header says, before any decoder sees it. Imports nothing that decodes.

A decoder that makes room for a picture, or unpacks what lies beside it, is asked only once the size
is known to be bearable.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

__all__ = ["Cleaned", "cleaned_png", "extra_format", "jxl_size", "webp_size"]

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_SMALL_TEXT = 1000  # bytes; packed text of no more unpacks to less than the 1 MB that Pillow bears
_MAX_PROFILE = 8 * 2**20  # bytes, unpacked
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
_JXL_BOX = b"\0\0\0\x0cJXL \r\n\x87\n"
# (width, height) as they relate, by the number in a JPEG XL's header
_JXL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


@dataclass(frozen=True)
class Cleaned:
    """A PNG without what it carries beside the picture."""

    data: bytes
    profile: bytes = b""  # its colour profile, where that was taken out


def cleaned_png(data: bytes) -> Cleaned:
    """A PNG without large text chunks and without its colour profile; any other file as it is.

    Tools that draw pictures write whole workflows into them, and Pillow refuses a picture for the
    size of its text. What decides the pixels is not touched.
    """
    if not data.startswith(_PNG):
        return Cleaned(data)
    kept: list[memoryview] = []
    view = memoryview(data)
    position = start = len(_PNG)
    kept.append(view[:start])
    profile = b""
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        drop = kind in _TEXTS and length > _SMALL_TEXT
        if kind == b"iCCP" and end <= len(data):
            profile = _profile(data[position + 8 : end - 4])
            drop = True
        if drop:
            kept.append(view[start:position])
            start = end
        position = end
    if len(kept) == 1:
        return Cleaned(data)
    kept.append(view[start:])
    return Cleaned(b"".join(kept), profile)


def _profile(chunk: bytes) -> bytes:
    """The profile of an iCCP chunk; nothing where it is broken or too large."""
    _, _, packed = chunk.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(packed[1:], _MAX_PROFILE + 1)
    except zlib.error:
        return b""
    return found if unpacker.eof and len(found) <= _MAX_PROFILE else b""


def extra_format(data: bytes) -> str:
    r"""HEIC or JPEG XL where a file is of these, else nothing; both need a package more.

    >>> extra_format(b"\0\0\0\x18ftypheic"), extra_format(b"\xff\x0a\0")
    ('HEIC', 'JPEG XL')
    """
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        return "HEIC"
    return "JPEG XL" if data.startswith((_JXL_BOX, b"\xff\x0a")) else ""


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height as a WebP file's header says them; (0, 0) for any other file."""
    head = data[:30]
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0, 0
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        (bits,) = struct.unpack("<I", head[21:25])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height as a JPEG XL's header says them (ISO 18181-1, SizeHeader); (0, 0) where it has none."""
    stream = data if data.startswith(b"\xff\x0a") else _jxl_stream(data)
    if not stream.startswith(b"\xff\x0a") or len(stream) < 16:
        return 0, 0
    bits = int.from_bytes(stream[2:16], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(small: bool) -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = bool(take(1))
    height = side(small)
    ratio = take(3)
    if ratio:
        wide, high = _JXL_RATIOS[ratio]
        return height * wide // high, height
    return side(small), height


def _jxl_stream(data: bytes) -> bytes:
    """The first bytes of the pictures' own stream in a container."""
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, inside = data[position + 4 : position + 8], position + 8
        if length == 1:
            length = int.from_bytes(data[inside : inside + 8], "big")
            inside += 8
        if kind == b"jxlc":
            return data[inside : inside + 32]
        if kind == b"jxlp":
            return data[inside + 4 : inside + 36]
        if length < 8:
            break
        position += length
    return b""
