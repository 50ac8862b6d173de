"""Pictures that are measured, never trained on: those that t2i or another tool drew, and their prompts.

A picture's prompt is its caption by the usual layouts; else that of the row of a `.jsonl` file there that names it, as
`t2i sample --json` writes them; else the one that the picture itself holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from t2i_cli import images, metadata
from t2i_cli.data import captions as words
from t2i_cli.data.dataset import CaptionedImages, loaded
from t2i_cli.data.facts import Facts
from t2i_cli.data.layouts import Source, read_source, with_splits
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.report import Problems, Record
from t2i_cli.errors import DataError, InputError

__all__ = ["load_drawn"]

_MAX_LINE = 2**20  # bytes of one row
_FILE_KEYS = ("path", "file_name")


def load_drawn(
    path: Path | str,
    resolution: int,
    options: ReadOptions | None = None,
    *,
    captions: bool = True,
    drawn: bool = True,
    image_channels: int = 4,
    cache: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionedImages:
    """Pictures with their prompts, to be measured.

    Args:
        path: a folder, an archive, a metadata file, or a `.jsonl` file of `t2i sample --json`.
        resolution: px, the side of the squares.
        options: how to read it.
        captions: whether a picture without a prompt is of no use; else its caption is empty.
        drawn: whether pictures that t2i drew are among those that are wanted.
        image_channels: as for `load`.
        cache: as for `load`.
        progress: called with (done, total) pictures now and then.

    Raises:
        DataError: nothing there, or (nearly) no picture has a prompt where one is needed.
        OutputError: the cache cannot be written.
    """
    options = options or ReadOptions()
    source = read_source(Path(path), options, drawn=drawn)
    packed = bool(source.listing.containers)
    records = source.records if packed else _with_prompts(source)
    known = {record.name for record in records}
    if not captions and not packed:
        places = source.listing.place
        lacking = [name for name in source.listing.images if name not in known]
        records = records + [Record(name, ("",), places(name)) for name in lacking]
    records = [record for record in records if record.captions]
    if not records:
        raise DataError(
            f"{path}: no picture with a prompt was found",
            "give captions as for training, pictures of t2i sample with their metadata, or "
            "--metrics kid,fd,prdc, which need none",
        )
    used = {record.name for record in records}
    problems = Problems()
    for name in source.listing.images:
        if name not in used and not packed:
            problems.add("left-out", name, what="without a prompt of its own is left out")
    ordered = sorted(records, key=lambda record: record.name)
    found = Source(
        source.path,
        source.phrase,
        with_splits(ordered, source.listing),
        problems,
        replace(source.listing, own=[]),
        source.notes,
    )
    return loaded(
        path,
        found,
        Facts(None, Path(path)),
        resolution,
        options,
        image_channels=image_channels,
        cache=cache,
        drawn=drawn,
        progress=progress,
    )


def _with_prompts(source: Source) -> list[Record]:
    """A source's records, and those of other pictures whose prompt is in a row or in themselves; sheets left out."""
    known = {record.name for record in source.records}
    rows = _rows(source)
    found = list(source.records)
    for name in source.listing.images:
        if name in known:
            continue
        file = source.listing.root / name
        place = source.listing.place(name)
        recipe = _recipe(file)
        if recipe is not None and recipe.kind in ("grid", "morph"):
            found.append(Record(name, (), place))  # known, and no picture of one prompt
            continue
        prompt = rows.get(str(file.resolve())) or (recipe.prompt if recipe is not None else "")
        if captions := words.clean([prompt]):
            found.append(Record(name, captions, place))
    return found


def _recipe(path: Path) -> metadata.Recipe | None:
    try:
        if path.stat().st_size > images.MAX_FILE_BYTES:
            return None
        return metadata.from_text(
            images.read_text(path.read_bytes(), name=path.name).text, path.name
        )
    except (OSError, DataError, InputError):
        return None


def _rows(source: Source) -> dict[str, str]:
    """Prompts of the rows that `t2i sample --json` wrote, by the resolved path of their picture."""
    found: dict[str, str] = {}
    for name in source.listing.tables:
        if not name.lower().endswith((".jsonl", ".ndjson")):
            continue
        table = source.listing.root / name
        for row in _json_lines(table):
            prompt = row.get("prompt")
            named = next((row[key] for key in _FILE_KEYS if isinstance(row.get(key), str)), None)
            if not isinstance(prompt, str) or not named or "\0" in named:
                continue
            for base in (table.parent, Path.cwd()):  # as it was written, or as it was called
                found.setdefault(str((base / named).resolve()), prompt)
    return found


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield cast("dict[str, Any]", row)
    except OSError:
        return
