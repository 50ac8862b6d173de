"""Hugging Face Parquet: ``data/train-00000-of-00004.parquet`` with the pictures' bytes in a column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from t2i_cli.data import captions as words
from t2i_cli.data import tables
from t2i_cli.data.layouts.base import Found
from t2i_cli.data.layouts.metadata import wrong_key
from t2i_cli.data.listing import Listing
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.place import Place
from t2i_cli.data.report import Problems, Record
from t2i_cli.data.split_names import splits_of
from t2i_cli.errors import DataError

__all__ = ["batches", "image_column", "read"]

_ROWS = 64  # read at once: pictures are large
_NOT_ATTRIBUTES = ("image", "bytes", "path", "url")


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where Parquet files have a column of pictures.

    Raises:
        DataError: pyarrow is not installed.
    """
    files = [name for name in listing.tables if name.lower().endswith(".parquet")]
    try:
        if not files or listing.containers or not any(_has_pictures(listing, one) for one in files):
            return None
    except DataError:
        if listing.images or listing.archives:  # they lie beside something that can be read
            return None
        raise
    found: list[Record] = []
    used: list[str] = []
    keys: dict[str, None] = {}
    for name in files:
        try:
            file = tables.parquet_file(listing, name)
            column = image_column(file)
            if column is None:
                continue
            used.append(name)
            found += _records(listing, name, file, column, options, problems, keys)
        except (OSError, ValueError) as error:
            problems.add("cut-shard", f"{name}: {getattr(error, 'strerror', None) or error}")
    if not used:
        return None
    if not found:
        wrong_key(problems, keys, options.caption_key)
    return Found(f"Parquet files with pictures ({len(used)})", found, sure=True)


def _has_pictures(listing: Listing, name: str) -> bool:
    try:
        return image_column(tables.parquet_file(listing, name)) is not None
    except (OSError, ValueError):
        return False


def image_column(file: Any) -> str | None:
    """The column that holds pictures: bytes, or ``{bytes, path}``; None where there is none.

    Raises:
        ValueError: the file is not whole.
    """
    from pyarrow import ArrowException, types  # pyright: ignore

    try:
        schema: Any = file.schema_arrow
        for field in schema:
            kind: Any = field.type
            if types.is_struct(kind):  # pyright: ignore
                if any(kind.field(k).name == "bytes" for k in range(kind.num_fields)):
                    return str(field.name)
            elif types.is_binary(kind) or types.is_large_binary(kind):  # pyright: ignore
                return str(field.name)
    except ArrowException as error:  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(f"not a Parquet file ({error})") from None  # pyright: ignore[reportUnknownArgumentType]
    return None


def batches(file: Any, columns: list[str]) -> Iterator[tuple[int, list[dict[str, object]]]]:
    """The rows of some columns, a few at a time, each batch with the number of its first row.

    Raises:
        ValueError: the file is broken.
    """
    from pyarrow import ArrowException  # pyright: ignore

    first = 0
    try:
        for batch in file.iter_batches(_ROWS, columns=columns):
            rows = cast("list[dict[str, object]]", batch.to_pylist())
            yield first, rows
            first += len(rows)
    except (ArrowException, OSError) as error:  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(f"broken ({error})") from None  # pyright: ignore[reportUnknownArgumentType]


def _records(
    listing: Listing,
    name: str,
    file: Any,
    column: str,
    options: ReadOptions,
    problems: Problems,
    keys: dict[str, None],
) -> list[Record]:
    others = [one for one in file.schema_arrow.names if one != column]
    names_of = _class_names(file)
    keys.update(dict.fromkeys(others[:64]))
    found: list[Record] = []
    split = splits_of([name]).get(name, "")
    path = listing.place(name).file
    for first, rows in batches(file, others):
        for number, row in enumerate(rows, first):
            where = f"{name}/{number:06}"
            row = {key: _named(value, names_of.get(key)) for key, value in row.items()}
            captions = words.from_row(row, options.caption_key)
            if not captions:
                problems.add("no-caption", where, mend="name the column with --caption-key")
                continue
            told = words.attributes_of(row, (options.caption_key or "", *_NOT_ATTRIBUTES))
            place = Place(path, number, kind="parquet")
            found.append(Record(where, captions, place, words.split_of(row) or split, told))
    return found


def _class_names(file: Any) -> dict[str, list[str]]:
    """The names of classes that are stored as numbers, from what the datasets library writes beside them."""
    try:
        told = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        pairs = cast("Mapping[str, Any]", told).items()
        return {
            key: [str(name) for name in cast("list[object]", one["names"])]
            for key, one in pairs
            if isinstance(one, dict) and isinstance(cast("Any", one).get("names"), list)
        }
    except (KeyError, TypeError, ValueError):
        return {}


def _named(value: object, names: list[str] | None) -> object:
    """A class's number as its name."""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value].replace("_", " ")
    return value
