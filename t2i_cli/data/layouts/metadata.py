"""A table beside the pictures or above them: ``metadata.csv|jsonl|json|parquet``, or the only one there.

A row's file name is looked up among the files that were found under the folder; nothing else is opened.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast

from t2i_cli.data import captions as words
from t2i_cli.data import tables
from t2i_cli.data.layouts.base import Found
from t2i_cli.data.listing import Listing, is_hidden
from t2i_cli.data.names import Names, Unmatched
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.own import RUN_TEXTS, is_run
from t2i_cli.data.report import Problems, Record
from t2i_cli.data.split_names import split_name
from t2i_cli.errors import DataError

__all__ = ["Matching", "above", "match", "own_names", "read", "wrong_key"]

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_MAX_KEYS = 64  # different keys that are remembered for a message
_LEVELS = 2  # folders above the data folder that are looked at
# names that say what a table holds where there are several
_TELLING = ("metadata", "captions", "caption", "labels", "dataset", "prompts", "index", "meta")
_NOT_A_TABLE = ("dataset_info", "dataset_infos", "dataset_dict", "state", "config", "package")


@dataclass
class Matching:
    """Rows matched with files so far."""

    names: Names
    caption_key: str | None
    own: Names  # pictures that t2i drew, which are told already
    own_rows: int = 0  # rows that name one of them
    found: dict[str, Record] = field(default_factory=dict[str, Record])
    listed: set[str] = field(default_factory=set[str])
    keys: dict[str, None] = field(default_factory=dict[str, None])
    missing: list[str] = field(default_factory=list[str])
    rows: int = 0
    named: int = 0  # rows that name a file


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where there is a table whose rows name pictures."""
    chosen, sure = _chosen(listing)
    asked = options.captions_from == "metadata" or listing.path.suffix.lower() in _SUFFIXES
    if not listing.images and not (sure or asked):
        return None  # beside shards lie tables of them
    if not chosen:
        found = None
        if listing.images and not listing.containers:
            found = _read_above(listing, options, problems)
        if found is not None:
            return found
        if asked:
            problems.add(
                "empty",
                what="no metadata.jsonl, metadata.csv, metadata.json or metadata.parquet was found",
                mend="add one, a row an image: file_name and text",
            )
            return Found("", [], sure=True)
        return None
    state = Matching(_names(listing), options.caption_key, own_names(listing))
    try:
        for table in chosen:
            rows = tables.rows(listing, table, problems)
            match(state, rows, listing, table.rpartition("/")[0], table, problems)
    except DataError:  # a package is missing, for a table that may be one of something else
        if sure or asked or not (listing.captions or listing.jsons):
            raise
        return None
    if not (sure or asked or state.listed or (state.named and state.missing)):
        return None  # a table of something else
    _faults(state, listing, chosen[0], problems)
    more = f" and {len(chosen) - 1} more" if len(chosen) > 1 else ""
    records = [state.found[name] for name in sorted(state.found)]
    return Found(
        f"image folder with {chosen[0]}{more}",
        records,
        sure=sure or asked,
        texts=tuple(listing.captions),
    )


def _names(listing: Listing) -> Names:
    root = "" if listing.containers else Path(os.path.abspath(listing.root)).as_posix()  # noqa: PTH100
    return Names(listing.images, root)


def own_names(listing: Listing) -> Names:
    """The pictures that t2i drew, by what rows may call them."""
    return Names(listing.own, Path(os.path.abspath(listing.root)).as_posix())  # noqa: PTH100


def _is_own(state: Matching, named: str, folder: str) -> bool:
    try:
        return bool(state.own.find(named, folder))
    except Unmatched:
        return False


def match(
    state: Matching,
    rows: Iterable[tables.Row],
    listing: Listing,
    folder: str,
    table: str,
    problems: Problems,
) -> None:
    """Match rows with files.

    Args:
        state: takes what is found.
        rows: of one table.
        listing: the files.
        folder: that the rows' file names are relative to.
        table: its name, for messages and for the split that it may name.
        problems: takes the rows that fit no picture.
    """
    split_of_table = _split_of_table(table)
    for where, row in rows:
        state.rows += 1
        if len(state.keys) < _MAX_KEYS:
            state.keys.update(dict.fromkeys(list(row)[:_MAX_KEYS]))
        named, file_key = _file_of(row)
        if not named:
            problems.add("bad-row", f"{where}: no file_name")
            continue
        state.named += 1
        try:
            image = state.names.find(named, folder)
        except Unmatched as why:
            if _is_own(state, named, folder):
                state.own_rows += 1
                continue
            state.missing.append(named)
            said = f": {why}" if why.kind != "missing-image" else ""
            problems.add(why.kind, f"{where}: {named}{said}")
            continue
        state.listed.add(image)
        captions = words.from_row(row, state.caption_key)
        if not captions:
            problems.add("no-caption", image, mend=f"add a text to its row in {table}")
            continue
        if before := state.found.get(image):  # several rows of one image are alternatives
            captions = words.clean(before.captions + captions)
            state.found[image] = Record(
                image, captions, before.place, before.split, before.attributes
            )
        else:
            used = (file_key, state.caption_key or "")
            split = words.split_of(row) or split_of_table
            told = words.attributes_of(row, used)
            state.found[image] = Record(image, captions, listing.place(image), split, told)


def _file_of(row: Mapping[str, object]) -> tuple[str, str]:
    """The file that a row names, and under which key; empty where it names none."""
    for wanted in words.FILE_KEYS:
        key = words.key_of(row, (wanted,))
        if key is None:
            continue
        value = row[key]
        if isinstance(value, dict):  # {"bytes": ..., "path": ...}
            value = cast("dict[str, object]", value).get("path")
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value.strip():
            return value.strip(), key
    return "", ""


def _split_of_table(table: str) -> str:
    """The split that a table's name says: ``train.csv``, ``captions_val2017.json``."""
    stem = PurePosixPath(table).stem
    parts = [stem, *stem.replace("-", "_").split("_"), *PurePosixPath(table).parts[:-1]]
    return next((split for part in parts if (split := split_name(part))), "")


def _chosen(listing: Listing) -> tuple[list[str], bool]:
    """The tables to read, and whether they are called metadata."""
    every = [
        name
        for name in (*listing.tables, *listing.jsons)
        if name.lower().endswith(_SUFFIXES) and name.rpartition(".")[0] not in listing.stems
    ]
    named = [name for name in every if PurePosixPath(name).stem.lower() == "metadata"]
    if named:
        return sorted(named), True
    folders: dict[str, list[str]] = {}
    for name in every:
        if PurePosixPath(name).stem.lower() not in _NOT_A_TABLE:
            folders.setdefault(name.rpartition("/")[0], []).append(name)
    chosen: list[str] = []
    for names in folders.values():
        telling = [name for name in names if _is_telling(name)]
        chosen += names if len(names) == 1 else telling
    return sorted(chosen), False


def _is_telling(name: str) -> bool:
    parts = PurePosixPath(name).stem.lower().replace("-", "_").split("_")
    return parts[0] in _TELLING or bool(split_name(parts[0]))


def above(listing: Listing) -> Iterator[Listing]:
    """The files, not the folders, that lie in the folders above a data folder, the nearest first."""
    folder = Path(os.path.abspath(listing.root))  # noqa: PTH100
    if listing.path.is_file():
        return
    for _ in range(_LEVELS):
        if folder.parent == folder:
            return
        folder = folder.parent
        found = Listing(listing.path, folder)
        try:
            with os.scandir(folder) as listed:
                entries = list(listed)
            passed = RUN_TEXTS if is_run({entry.name for entry in entries}) else ()
            for entry in entries:
                if not is_hidden(entry.name) and entry.name not in passed and entry.is_file():
                    found.take(entry.name)
        except OSError:
            return
        found.images.clear()  # another set's
        found.sort()
        yield found


def _read_above(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout by a table above the data folder, where its rows name pictures of this one."""
    for upper in above(listing):
        chosen, sure = _chosen(upper)
        faults = Problems()
        state = Matching(_names(listing), options.caption_key, own_names(listing))
        for table in chosen:
            with contextlib.suppress(DataError):  # a package is missing for what may be another's
                match(state, tables.rows(upper, table, faults), listing, "", table, faults)
        if state.found:
            for image in listing.images:
                if image not in state.listed:
                    problems.add("unlisted", image, mend=f"add a row for it to {chosen[0]}")
            # rows of pictures in folders beside this one are no fault of it
            for kind in ("bad-row", "no-caption", "converted", "unquoted"):
                problems.take(faults, kind)
            records = [state.found[name] for name in sorted(state.found)]
            where = os.path.relpath(upper.root / chosen[0], listing.root)
            return Found(
                f"image folder with {Path(where).as_posix()}",
                records,
                sure=sure,
                texts=tuple(listing.captions),
            )
    return None


def _faults(state: Matching, listing: Listing, table: str, problems: Problems) -> None:
    """Say why a table as a whole gives nothing, or which pictures it leaves out."""
    if not state.rows:
        problems.add(
            "empty",
            what=f"{table} holds no row that can be read",
            mend="write a row an image: file_name and text",
        )
    elif not state.named:
        _wrong_file_key(problems, state.keys)
    elif len(state.missing) == state.named:
        here = f"the folder holds {listing.images[0]}" if listing.images else "there is no image"
        problems.add(
            "no-match",
            what=f"no row of {table} matches an image: it names {state.missing[0]}, {here}",
            mend="file_name is relative to the metadata file",
        )
    elif not state.found and not state.own_rows:
        wrong_key(problems, state.keys, state.caption_key)
    if state.found:
        for image in listing.images:
            if image not in state.listed:
                problems.add("unlisted", image, mend=f"add a row for it to {table}")


def wrong_key(problems: Problems, keys: Mapping[str, None], caption_key: str | None) -> None:
    """No row has a caption: say which key was looked for and which one was probably meant."""
    others = [key for key in keys if key.lower() not in (*words.FILE_KEYS, "split")]
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
    guess = words.nearest("file_name", keys)
    problems.add(
        "unknown-file-key",
        what=f"no row has a file_name; the keys are {', '.join(list(keys)[:8])}",
        mend=f"rename {guess} to file_name" if guess else "add the path of each image as file_name",
    )
