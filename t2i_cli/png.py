"""Pixels and text -> the bytes of a PNG, with zlib and numpy alone: a cold `t2i sample` has no time to import PIL.

The same pixels and text give the same bytes. Reading is `images.decode`'s work.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

__all__ = ["encode"]

_COLOUR = {1: 0, 3: 2, 4: 6}  # channels -> PNG colour type: grey, RGB, RGBA


def encode(pixels: np.ndarray, text: Mapping[str, str] | None = None, xmp: str = "") -> bytes:
    """Pixels, uint8 (h, w, 3 or 4), straight alpha -> a PNG.

    Args:
        pixels: the picture.
        text: keyword (1 to 79 Latin-1 characters) -> text; a tEXt chunk where Latin-1 holds it, else iTXt.
            NUL is dropped.
        xmp: an XMP packet, or nothing.
    """
    height, width, channels = pixels.shape
    out = [
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR[channels], 0, 0, 0)),
    ]
    out += [_text(keyword, value) for keyword, value in (text or {}).items()]
    if xmp:
        out.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _utf8(xmp)))
    out.append(_chunk(b"IDAT", zlib.compress(_filtered(pixels), 6)))
    out.append(_chunk(b"IEND", b""))
    return b"".join(out)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
    )


def _text(keyword: str, value: str) -> bytes:
    value = value.replace("\0", "")
    try:
        return _chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + value.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + _utf8(value))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _filtered(pixels: np.ndarray) -> bytes:
    """Each row as the difference that sums least (PNG specification, 12.8): none, left, up or Paeth."""
    height, width, channels = pixels.shape
    rows = pixels.astype(np.int16).reshape(height, width * channels)
    left = np.zeros_like(rows)
    left[:, channels:] = rows[:, :-channels]
    up = np.zeros_like(rows)
    up[1:] = rows[:-1]
    corner = np.zeros_like(rows)
    corner[1:, channels:] = rows[:-1, :-channels]
    to_left, to_up, to_corner = (
        np.abs(up - corner),
        np.abs(left - corner),
        np.abs(left + up - 2 * corner),
    )
    paeth = np.where(
        (to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner)
    )
    choices = np.stack([rows, rows - left, rows - up, rows - paeth]).astype(np.uint8)
    costs = np.abs(choices.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = costs.argmin(axis=0)
    out = np.empty((height, 1 + width * channels), np.uint8)
    out[:, 0] = np.array([0, 1, 2, 4], np.uint8)[best]
    out[:, 1:] = choices[best, np.arange(height)]
    return out.tobytes()
