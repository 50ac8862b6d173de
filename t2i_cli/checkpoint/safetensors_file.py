"""The safetensors container, written canonically and read strictly, by hand and without torch.

Two things are needed that the safetensors library does not give: a header read within bounds (a 47
MB one costs it 17 s and 1.8 GB), and a check that notices any changed bit. So a file carries two
digests in its own metadata:

- ``modelspec.hash_sha256``: SHA-256 of the tensor bytes, as ModelSpec defines it, with ``0x`` in
  front;
- ``t2i.header_sha256``: SHA-256 of everything before the tensor bytes (length, header, padding)
  with the 64 digits of this very digest written as zeros.

Whatever reads safetensors reads these files. Digests tell accidents, not forgers: anyone can
compute them anew.

File: 8 bytes little-endian header length · JSON header padded with spaces to 8 bytes · tensor bytes
    without gaps.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from t2i_cli.errors import WeightsError

__all__ = [
    "DATA_HASH",
    "DTYPES",
    "HEADER_HASH",
    "MAX_HEADER",
    "MAX_TENSORS",
    "Header",
    "TensorInfo",
    "data_digest",
    "header_bytes",
    "read_data",
    "read_header",
]

MAX_HEADER = 1_000_000  # bytes
MAX_TENSORS = 10_000
MAX_DIMS = 16
MAX_NAME = 512  # characters
DATA_HASH = "modelspec.hash_sha256"
HEADER_HASH = "t2i.header_sha256"
DTYPES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
"U16": 2, "I8": 1,
          "U8": 1, "BOOL": 1}  # fmt: skip  # name -> bytes an element
_BLANK = "0" * 64
_CHUNK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file: what it is and where its bytes are."""

    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    start: int  # bytes from the start of the data
    end: int  # bytes from the start of the data, exclusive


@dataclass(frozen=True)
class Header:
    """Everything before the tensor bytes, checked."""

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    data_start: int  # bytes from the start of the file
    data_size: int  # bytes


def header_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    data_sha256: str,
) -> tuple[bytes, list[str]]:
    """The start of a file, up to the tensor bytes, and the order in which these must follow.

    Args:
        tensors: name -> (dtype, shape).
        metadata: text -> text; the two digests are added.
        data_sha256: hexadecimal digest of the tensor bytes in that order (`layout` gives it).
    """
    order = layout(tensors)
    told = {**metadata, "format": "pt", DATA_HASH: "0x" + data_sha256, HEADER_HASH: _BLANK}
    table: dict[str, object] = {"__metadata__": dict(sorted(told.items()))}
    position = 0
    for name in order:
        dtype, shape = tensors[name]
        size = DTYPES[dtype] * math.prod(shape)
        table[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    raw = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(raw).hexdigest()
    return raw.replace(_pin(_BLANK), _pin(digest), 1), order


def layout(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """The order of tensors in a file: wide elements first, so that all are aligned, then names."""
    return sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]], name))


def data_digest(chunks: Iterable[bytes | memoryview]) -> str:
    """SHA-256 over the tensor bytes in order, hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def read_header(file: IO[bytes], name: Path | str, *, strict: bool = True) -> Header:
    """Read and check the start of an open file; leaves it at the first tensor byte.

    Args:
        file: opened for reading bytes, at its start.
        name: how errors name it.
        strict: the file must carry our digests, and the header's must hold.

    Raises:
        WeightsError: not safetensors, cut, changed, or beyond a bound; one line that names the
            file.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        _refuse(name, f"cut short: it has {size} bytes", "take a whole copy of the file")
    (length,) = struct.unpack("<Q", start)
    if not 2 <= length <= MAX_HEADER:
        _refuse(
            name,
            f"not a t2i weights file: its header would have {length:,} bytes, at most "
            f"{MAX_HEADER:,} are read",
        )
    raw = file.read(length)
    if len(raw) < length:
        _refuse(
            name,
            f"cut short: {len(raw):,} of {length:,} bytes of its header",
            "take a whole copy of the file",
        )
    table = _parse(raw, name)
    metadata = _metadata(table.pop("__metadata__", {}), name)
    if strict:
        _check_header_digest(start + raw, metadata, name)
    tensors, data_size = _tensors(table, name)
    if 8 + length + data_size != size:
        what = "cut short" if size < 8 + length + data_size else "too long"
        _refuse(
            name,
            f"{what}: {size:,} bytes, its header says {8 + length + data_size:,}",
            "take a whole copy of the file",
        )
    return Header(metadata, tensors, 8 + length, data_size)


def read_data(file: IO[bytes], header: Header, name: Path | str, *, keep: bool = True) -> bytearray:
    """The tensor bytes of an open file, checked against the digest in its metadata.

    Args:
        file: opened for reading bytes.
        header: what `read_header` gave for it.
        name: how errors name it.
        keep: False only checks, in little memory, and returns nothing.

    Raises:
        WeightsError: cut or changed.
    """
    digest = hashlib.sha256()
    data = bytearray(header.data_size if keep else 0)
    view, position = memoryview(data), 0
    file.seek(header.data_start)
    for chunk in _chunks(file, header.data_size):
        digest.update(chunk)
        if keep:
            view[position : position + len(chunk)] = chunk
        position += len(chunk)
    expected = header.metadata.get(DATA_HASH, "")
    if position != header.data_size or file.read(1):
        _refuse(name, "it changed while it was read", "try again")
    if not hmac.compare_digest(("0x" + digest.hexdigest()).encode(), expected.encode()):
        _refuse(
            name,
            "damaged: its tensor bytes are not the ones that were saved (SHA-256 differs)",
            "take a whole copy",
        )
    return data


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = file.read(min(_CHUNK, size))
        if not chunk:
            return
        size -= len(chunk)
        yield chunk


def _refuse(name: Path | str, why: str, hint: str = "") -> NoReturn:
    raise WeightsError(f"{name}: {why}", hint)


def _pin(digest: str) -> bytes:
    """How the digest stands in the header; no JSON string holds this, as its quotes are escaped."""
    return f'"{HEADER_HASH}":"{digest}"'.encode()


def _check_header_digest(raw: bytes, metadata: dict[str, str], name: Path | str) -> None:
    told = metadata.get(HEADER_HASH)
    if told is None or DATA_HASH not in metadata:
        if not any(key.startswith("t2i.") for key in metadata):
            _refuse(
                name,
                "not a t2i weights file: its metadata holds no t2i keys",
                "give a file that t2i train wrote",
            )
        _refuse(name, "damaged: its header has lost a digest", "take a whole copy of the file")
    if not re.fullmatch("[0-9a-f]{64}", told) or raw.count(_pin(told)) != 1:
        _refuse(name, "damaged: its header's digest is not one", "take a whole copy of the file")
    digest = hashlib.sha256(raw.replace(_pin(told), _pin(_BLANK), 1)).hexdigest()
    if not hmac.compare_digest(digest, told):
        _refuse(
            name,
            "damaged: its header is not the one that was saved (SHA-256 differs)",
            "take a whole copy",
        )


def _parse(raw: bytes, name: Path | str) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name occurs twice")
        return table

    def refuse_number(text: str) -> NoReturn:
        raise ValueError(f"a number that is not whole: {text[:20]}")

    if raw[:1] != b"{":
        _refuse(
            name,
            "not a safetensors file: its header does not begin with {",
            "give a file that t2i train wrote",
        )
    try:
        table: Any = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=refuse_number,
            parse_constant=refuse_number,
        )
    except (ValueError, RecursionError) as error:
        _refuse(
            name,
            f"damaged: its header is not valid JSON ({str(error)[:100]})",
            "take a whole copy of the file",
        )
    if not isinstance(table, dict):
        _refuse(name, "damaged: its header is not a JSON object")
    return cast("dict[str, object]", table)


def _metadata(told: object, name: Path | str) -> dict[str, str]:
    if not isinstance(told, dict):
        _refuse(name, "damaged: its metadata is not an object")
    for value in cast("dict[str, object]", told).values():
        if not isinstance(value, str):
            _refuse(name, "damaged: its metadata holds something that is not text")
    return cast("dict[str, str]", told)


def _tensors(table: dict[str, object], name: Path | str) -> tuple[dict[str, TensorInfo], int]:
    """The header's table, every bound checked; the data is used whole and without overlap."""
    if len(table) > MAX_TENSORS:
        _refuse(name, f"it names {len(table):,} tensors; at most {MAX_TENSORS:,} are read")
    tensors: dict[str, TensorInfo] = {}
    for key, entry in table.items():
        info = _tensor(entry) if len(key) <= MAX_NAME else None
        if info is None:
            _refuse(name, f"damaged: the entry of tensor {key[:100]!r} is not valid")
        tensors[key] = info
    position = 0
    for key, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != position:
            _refuse(
                name, f"damaged: the bytes of tensor {key[:100]!r} overlap others or leave a gap"
            )
        position = info.end
    return tensors, position


def _tensor(entry: object) -> TensorInfo | None:
    if not isinstance(entry, dict) or set(cast("dict[str, object]", entry)) != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        return None
    fields = cast("dict[str, Any]", entry)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES or not _whole_numbers(shape, MAX_DIMS):
        return None
    if not _whole_numbers(offsets, 2) or len(offsets) != 2:
        return None
    start, end = offsets
    if end - start != DTYPES[dtype] * math.prod(shape):
        return None
    return TensorInfo(dtype, tuple(shape), start, end)


def _whole_numbers(values: object, most: int) -> bool:
    if not isinstance(values, list) or len(cast("list[object]", values)) > most:
        return False
    return all(type(value) is int and 0 <= value < 2**48 for value in cast("list[object]", values))
