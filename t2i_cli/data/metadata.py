"""``metadata.jsonl``, ``.csv`` or ``.parquet`` -> records: a row an image, ``file_name`` beside it.

A row's path is looked up among the files that were found under the folder; nothing else is opened.
"""

from __future__ import annotations

import csv
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from t2i_cli.data import captions as words
from t2i_cli.data.layouts import Source
from t2i_cli.data.report import Problems, Record
from t2i_cli.errors import DataError

__all__ = ["read_metadata", "wrong_key"]

_MAX_LINE = 2**20  # characters, of one row
_MAX_KEYS = 64  # different keys that are remembered for a message
_FILE_KEYS = ("filename", "file", "image", "image_path", "path", "img")  # likely slips


def read_metadata(source: Source, problems: Problems, caption_key: str | None) -> list[Record]:
    """A record for each picture that rows name with a caption, in the order of their names."""
    if not source.texts:
        problems.add(
            "empty",
            what="no metadata.jsonl, metadata.csv or metadata.parquet was found",
            mend="add one, a row an image: file_name and text",
        )
        return []
    by_name = {unicodedata.normalize("NFC", name): name for name in source.images}
    found: dict[str, Record] = {}
    listed: set[str] = set()
    keys: dict[str, None] = {}
    missing: list[str] = []
    rows = named_rows = 0
    own = frozenset(source.own)
    for text in source.texts:
        folder = text.rpartition("/")[0]
        for where, row in _rows(source.root, text, problems):
            rows += 1
            if len(keys) < _MAX_KEYS:
                keys.update(dict.fromkeys(list(row)[:_MAX_KEYS]))
            named = row.get("file_name")
            if not isinstance(named, str) or not named.strip():
                problems.add("bad-row", f"{where}: no file_name")
                continue
            named_rows += 1
            name = _inside(named, folder)
            if name is None:
                problems.add("bad-path", f"{where}: {named}")
                continue
            image = by_name.get(unicodedata.normalize("NFC", name))
            if image is None and name in own:  # told already
                continue
            if image is None:
                missing.append(name)
                problems.add("missing-image", f"{where}: {name}")
                continue
            listed.add(image)
            captions = words.from_row(row, caption_key)
            if not captions:
                problems.add("no-caption", image, mend=f"add a text to its row in {text}")
                continue
            file = str(source.root / image)
            if before := found.get(image):  # several rows of one image are alternatives
                captions = words.clean(before.captions + captions)
                found[image] = Record(image, captions, file, split=before.split, meta=before.meta)
            else:
                meta = words.meta_of(row, ("file_name", caption_key or ""))
                found[image] = Record(image, captions, file, split=words.split_of(row), meta=meta)
    if not rows:
        problems.add(
            "empty",
            what=f"{source.texts[0]} holds no row that can be read",
            mend="write a row an image: file_name and text",
        )
    elif not named_rows:
        _wrong_file_key(problems, keys)
    elif len(missing) == named_rows:
        here = f"the folder holds {source.images[0]}" if source.images else "there is no image"
        problems.add(
            "no-match",
            what=f"no row of {source.texts[0]} matches an image: it names {missing[0]}, {here}",
            mend="file_name is relative to the metadata file",
        )
    elif not found and not own:
        wrong_key(problems, keys, caption_key)
    if found:
        for image in source.images:
            if image not in listed:
                problems.add("unlisted", image, mend=f"add a row for it to {source.texts[0]}")
    return [found[name] for name in sorted(found)]


def wrong_key(problems: Problems, keys: Mapping[str, None], caption_key: str | None) -> None:
    """No row has a caption: say which key was looked for and which one was probably meant."""
    others = [key for key in keys if key not in ("file_name", "split")]
    if not others:
        return
    tried = (caption_key,) if caption_key else words.CAPTION_KEYS
    guess = next((near for key in tried if (near := words.nearest(key, others))), "")
    if not guess:
        hints = ("capt", "text", "prompt", "desc", "label", "title", "name")
        guess = next((key for hint in hints for key in others if hint in key.lower()), others[0])
    if guess in tried or guess in words.CAPTION_KEYS:
        mend = f"use --caption-key {guess}" if caption_key else f"{guess} is empty in every row"
    else:
        mend = f"use --caption-key {guess}"
    problems.add(
        "unknown-key",
        what=f"no caption under {' or '.join(tried)}; the keys are {', '.join(others[:8])}",
        mend=mend,
    )


def _wrong_file_key(problems: Problems, keys: Mapping[str, None]) -> None:
    lowered = {key.lower(): key for key in keys}
    guess = next((lowered[key] for key in _FILE_KEYS if key in lowered), "")
    guess = guess or words.nearest("file_name", keys)
    problems.add(
        "unknown-file-key",
        what=f"no row has a file_name; the keys are {', '.join(list(keys)[:8])}",
        mend=f"rename {guess} to file_name" if guess else "add the path of each image as file_name",
    )


def _inside(named: str, folder: str) -> str | None:
    r"""A row's file name -> the same relative to the root, or None where it leads out of the folder.

    >>> _inside("./img/a.png", "sub"), _inside("..\\a.png", ""), _inside("C:/a.png", "")
    ('sub/img/a.png', None, None)
    """
    name = named.strip().replace("\\", "/")
    if "://" in name or name.startswith(("/", "~")) or "\0" in name or name[1:2] == ":":
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        return None
    return "/".join([folder, *parts] if folder else parts)


def _rows(root: Path, name: str, problems: Problems) -> Iterator[tuple[str, dict[str, object]]]:
    """The rows of a metadata file, each with where it stands (``metadata.jsonl:3``)."""
    path = root / name
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        if name.lower().endswith(".jsonl"):
            yield from _json_rows(path, name, problems)
        elif name.lower().endswith(".csv"):
            yield from _csv_rows(path, name, problems)
        else:
            yield from _parquet_rows(path, name)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        problems.add("bad-metadata", f"{name}: {why}")


def _json_rows(
    path: Path, name: str, problems: Problems
) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            if not line.strip():
                continue
            if len(line) == _MAX_LINE:
                raise ValueError(f"row {number} is longer than {_MAX_LINE >> 20} MB")
            row = words.json_object(line)
            if row is None:
                problems.add("bad-row", f"{name}:{number}: not a JSON object")
            else:
                yield f"{name}:{number}", row


def _csv_rows(path: Path, name: str, problems: Problems) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = max(",;\t", key=file.readline(_MAX_LINE).count)
        file.seek(0)
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        for row in reader:
            where = f"{name}:{reader.line_num}"
            if None in row:
                problems.add(
                    "bad-row",
                    f"{where}: more cells than the header",
                    mend='put a caption with a comma in quotes: "a cat, sitting"',
                )
            else:
                yield where, {key: value for key, value in row.items() if value}


def _parquet_rows(path: Path, name: str) -> Iterator[tuple[str, dict[str, object]]]:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore
    except ImportError as error:
        raise DataError(
            f"{name}: reading Parquet needs pyarrow",
            "pip install 't2i-cli[parquet]', or save it as metadata.jsonl",
        ) from error
    number = 0
    try:
        file: Any = parquet.ParquetFile(path)
        for batch in file.iter_batches(1024):
            for row in cast("list[dict[str, object]]", batch.to_pylist()):
                number += 1
                yield f"{name}:{number}", row
    except ArrowException as error:  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(f"not a Parquet file ({error})") from None  # pyright: ignore[reportUnknownArgumentType]
