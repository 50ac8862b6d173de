"""CSV, JSON, JSON lines and Parquet -> rows, each with where it stands (``metadata.jsonl:3``)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from typing import Any, cast

from t2i_cli.data import captions as words
from t2i_cli.data import encodings
from t2i_cli.data.listing import Listing
from t2i_cli.data.report import Problems
from t2i_cli.errors import DataError
from t2i_cli.images import EXTRA_SUFFIXES, SUFFIXES

__all__ = ["MAX_TABLE", "Row", "json_rows", "parquet_file", "rows", "text_of"]

Row = tuple[str, dict[str, object]]

MAX_TABLE = 2**29  # bytes of a metadata file
_MAX_CELL = 2**20  # characters
_SEPARATORS = ",;\t|"


def rows(listing: Listing, name: str, problems: Problems) -> Iterator[Row]:
    """The rows of a table; what cannot be read goes to ``problems``.

    Raises:
        DataError: reading it needs a package that is not installed.
    """
    lowered = name.lower()
    try:
        if lowered.endswith(".parquet"):
            yield from _parquet_rows(listing, name)
            return
        text = text_of(listing, name, problems)
        if lowered.endswith((".csv", ".tsv")):
            yield from _csv_rows(text, name, problems)
        elif lowered.endswith((".jsonl", ".ndjson")) and not text.lstrip().startswith("["):
            yield from _line_rows(text, name, problems)
        else:
            yield from json_rows(words.json_value(text), name, problems)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        problems.add("bad-metadata", f"{name}: {why}")


def text_of(listing: Listing, name: str, problems: Problems, limit: int = MAX_TABLE) -> str:
    """A text file's text; one in a code page is reported.

    Raises:
        ValueError, OSError: it cannot be read, or is no text.
    """
    text, encoding = encodings.decode(listing.read(name, limit))
    if encoding != encodings.UTF8:
        converted(problems, name, encoding)
    return text


def converted(problems: Problems, name: str, encoding: str) -> None:
    """Report a text that is not in UTF-8."""
    problems.add("converted", name, what=f"read as {encoding}, not as UTF-8", cause=encoding)


def _line_rows(text: str, name: str, problems: Problems) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > _MAX_CELL:
            problems.add("bad-row", f"{name}:{number}: longer than {_MAX_CELL >> 20} MB")
            continue
        row = words.json_value(line)
        if isinstance(row, dict):
            yield f"{name}:{number}", cast("dict[str, object]", row)
        else:
            problems.add("bad-row", f"{name}:{number}: not a JSON object")


def json_rows(value: object, name: str, problems: Problems) -> Iterator[Row]:
    """The rows of a JSON document: an array of objects, an object of them, or file names with captions.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, dict):
        known = cast("dict[str, object]", value)
        lists = [key for key, one in known.items() if _are_rows(one)]
        if len(lists) == 1 or "images" in lists:
            value = known["images" if "images" in lists else lists[0]]
        else:
            yield from _mapping_rows(known, name, problems)
            return
    if not isinstance(value, list):
        raise ValueError("not an array or an object of rows")
    for number, row in enumerate(cast("list[object]", value), 1):
        where = f"{name}: row {number}"
        if isinstance(row, dict):
            yield where, cast("dict[str, object]", row)
        elif len(pair := cast("list[object]", row) if isinstance(row, list) else []) == 2:
            yield where, {"file_name": pair[0], "text": pair[1]}
        else:
            problems.add("bad-row", f"{where}: not an object")


def _are_rows(value: object) -> bool:
    rows = cast("list[object]", value) if isinstance(value, list) else []
    return bool(rows) and isinstance(rows[0], dict)


def _mapping_rows(known: dict[str, object], name: str, problems: Problems) -> Iterator[Row]:
    """Rows of ``{"a.png": "a cat"}``, ``{"a.png": ["a cat", "cat"]}`` or ``{"a.png": {"caption": "a cat"}}``."""
    for file, value in known.items():
        if isinstance(value, dict):
            yield f"{name}: {file}", {**cast("dict[str, object]", value), "file_name": file}
        elif isinstance(value, str | list | int | float):
            yield f"{name}: {file}", {"file_name": file, "text": value}
        else:
            problems.add("bad-row", f"{name}: {file}: not a caption")


def _csv_rows(text: str, name: str, problems: Problems) -> Iterator[Row]:
    first, _, rest = text.partition("\n")
    separator = ""
    if first.strip().strip('"').lower().startswith("sep=") and len(first.strip().strip('"')) <= 5:
        separator = first.strip().strip('"')[4:] or "\t"  # the line that Excel reads
        text, first = rest, rest.partition("\n")[0]
    separator = separator or _separator(first)
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = next(reader, list[str]())
    while header and not any(cell.strip() for cell in header):
        header = next(reader, list[str]())
    if header and _is_picture(header[0]):  # no header: files with their captions
        names = ["file_name", "text", *(f"column {k}" for k in range(3, len(header) + 1))]
        names = names[: max(2, len(header))]
        yield f"{name}:1", dict(zip(names, header, strict=False))
        header = names
    header = [cell.strip() for cell in header]
    last = header[-1].lower() if header else ""
    for cells in reader:
        where = f"{name}:{reader.line_num}"
        if len(cells) > len(header) > 1 and last in words.CAPTION_KEYS:
            problems.add("unquoted", where)
            kept = len(header) - 1
            cells = [*cells[:kept], separator.join(cells[kept:])]
        if len(cells) > len(header):
            mend = 'put a caption with a comma in quotes: "a cat, sitting"'
            problems.add("bad-row", f"{where}: more cells than the header", mend=mend)
        elif any(cells):
            yield where, {key: cell for key, cell in zip(header, cells, strict=False) if cell}


def _separator(header: str) -> str:
    """The separator of a table: the one by which its header has known columns, else the most frequent."""
    wanted = {*words.CAPTION_KEYS, *words.FILE_KEYS}

    def known(separator: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"').lower() for cell in header.split(separator)]
        return sum(cell in wanted for cell in cells), header.count(separator)

    return max(_SEPARATORS, key=known)


def _is_picture(cell: str) -> bool:
    suffix = os.path.splitext(cell.strip().lower())[1]  # noqa: PTH122
    return suffix in SUFFIXES or suffix in EXTRA_SUFFIXES


def parquet_file(listing: Listing, name: str) -> Any:
    """A Parquet file, opened; in an archive it is read into memory.

    Raises:
        DataError: pyarrow is not installed.
        ValueError, OSError: it is no such file, or too large.
    """
    try:
        from pyarrow import ArrowException, BufferReader, parquet  # pyright: ignore
    except ImportError as error:
        raise DataError(
            f"{name}: reading Parquet needs pyarrow",
            "pip install 't2i-cli[parquet]', or save it as metadata.jsonl",
        ) from error
    place = listing.place(name)
    try:
        if place.kind == "file":
            return parquet.ParquetFile(place.file)  # pyright: ignore
        return parquet.ParquetFile(BufferReader(listing.read(name, MAX_TABLE)))  # pyright: ignore
    except ArrowException as error:  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(f"not a Parquet file ({error})") from None  # pyright: ignore[reportUnknownArgumentType]


def _parquet_rows(listing: Listing, name: str) -> Iterator[Row]:
    file = parquet_file(listing, name)
    from pyarrow import ArrowException  # pyright: ignore

    number = 0
    try:
        for batch in file.iter_batches(1024):
            for row in cast("list[dict[str, object]]", batch.to_pylist()):
                number += 1
                yield f"{name}:{number}", row
    except ArrowException as error:  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(f"not a Parquet file ({error})") from None  # pyright: ignore[reportUnknownArgumentType]
