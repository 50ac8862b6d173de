"""Pictures decoded once: a packed, memory-mapped file of pixels with an index of captions beside it.

An entry is a folder ``<cache>/data/<key>`` with ``pixels.bin``, uint8 (n, r, r, c), and
``index.json``: a line that holds the shape and the checksums, then one that holds the rest. The key
is a SHA-256 of the content and of all that decides the pixels. It is built under another name,
synced, and put in place by one rename, so it is there whole or not at all, and of two processes
that build it at once one wins and both use the same. An entry whose checksums do not hold is built
again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from t2i_cli.errors import OutputError
from t2i_cli.folders import cache_folder
from t2i_cli.leftovers import held_folder, sweep

__all__ = ["Entry", "cache_folder", "open_entry", "write_entry"]

_FORMAT = 1
_CHUNK = 1 << 24  # bytes
_BUILDING = "building-"  # how a folder is called that is not finished


@dataclass(frozen=True)
class Entry:
    """A cache entry that was found whole."""

    pixels: np.ndarray  # memory-mapped uint8 (n, r, r, c)
    index: dict[str, Any]  # what was stored beside


def open_entry(cache: Path, key: str) -> Entry | None:
    """The entry of a key, verified; None where there is none or it is broken."""
    folder = cache / "data" / key
    try:
        head_line, body = (folder / "index.json").read_bytes().split(b"\n", 1)
        head = cast("dict[str, Any]", json.loads(head_line))
        shape = tuple(int(side) for side in head["shape"])
        if head["format"] != _FORMAT or head["index_crc32"] != zlib.crc32(body) or len(shape) != 4:
            return None
        file = folder / "pixels.bin"
        if file.stat().st_size != int(np.prod(shape)) or _checksum(file) != head["pixels_crc32"]:
            return None
        pixels = np.memmap(file, np.uint8, "r", shape=shape)
        return Entry(pixels, cast("dict[str, Any]", json.loads(body)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_entry(
    cache: Path, key: str, fill: Callable[[BinaryIO], tuple[tuple[int, ...], dict[str, Any]]]
) -> Entry:
    """Build an entry and open it.

    Args:
        cache: the cache's folder; made where it is not there.
        key: names the entry; anything broken under it is replaced.
        fill: writes the pixels to the file it gets, which can also be read, and returns their shape
            and the index.

    Raises:
        OutputError: the cache cannot be written.
    """
    data = cache / "data"
    building, held = Path(), -1
    try:
        data.mkdir(parents=True, exist_ok=True)
        sweep(str(data), lambda name: name.startswith(_BUILDING))
        made, held = held_folder(lambda: str(data / f"{_BUILDING}{secrets.token_hex(8)}"))
        building = Path(made)
        with (building / "pixels.bin").open("w+b") as file:
            shape, index = fill(file)
            file.flush()
            os.fsync(file.fileno())
        body = json.dumps(index, ensure_ascii=True, separators=(",", ":")).encode()
        head = {
            "format": _FORMAT,
            "shape": shape,
            "pixels_crc32": _checksum(building / "pixels.bin"),
            "index_crc32": zlib.crc32(body),
        }
        with (building / "index.json").open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        return _put_in_place(cache, key, building)
    except OSError as error:
        raise OutputError(
            f"{cache}: the cache of decoded pictures cannot be written: {error.strerror or error}",
            "free some space, or set T2I_CACHE to a folder that can be written",
        ) from error
    finally:
        if building.name:
            shutil.rmtree(building, ignore_errors=True)
        if held >= 0:
            os.close(held)


def _put_in_place(cache: Path, key: str, building: Path) -> Entry:
    target = cache / "data" / key
    for _ in range(10):
        try:
            building.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                raise
            # another process was first: its entry holds the same
            if entry := open_entry(cache, key):
                return entry
            aside = target.with_name(f"{_BUILDING}{secrets.token_hex(8)}")
            with contextlib.suppress(OSError):
                target.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
            continue
        _sync_folder(target)
        _sync_folder(target.parent)
        if entry := open_entry(cache, key):
            return entry
    raise OSError(errno.EIO, "what was written does not read back the same")


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _sync_folder(path: Path) -> None:
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
