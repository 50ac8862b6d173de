"""Pictures that are measured, never trained on: those that t2i or another tool drew, and their prompts.

A picture's prompt is its caption by the usual layouts; else that of the row of a `.jsonl` file there that names it, as
`t2i sample --json` writes them; else the one that the picture itself holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from t2i_cli import images, metadata
from t2i_cli.data import captions as words
from t2i_cli.data.dataset import CaptionedImages, digest_of, loaded
from t2i_cli.data.layouts import CaptionsFrom, Source, find
from t2i_cli.data.report import Problems, Record
from t2i_cli.data.scan import read_records
from t2i_cli.errors import DataError, InputError

__all__ = ["load_drawn"]

_MAX_LINE = 2**20  # bytes of one row
_FILE_KEYS = ("path", "file_name")


def load_drawn(
    path: Path | str,
    resolution: int,
    *,
    captions: bool = True,
    drawn: bool = True,
    image_channels: int | None = None,
    cache: Path | str | None = None,
    captions_from: CaptionsFrom | None = None,
    caption_key: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionedImages:
    """Pictures with their prompts, to be measured.

    Args:
        path: a folder, a tar shard, a metadata file, or a `.jsonl` file of `t2i sample --json`.
        resolution: px, the side of the squares.
        captions: whether a picture without a prompt is of no use; else its caption is empty.
        drawn: whether pictures that t2i drew are among those that are wanted.
        image_channels: as for `load`.
        cache: as for `load`.
        captions_from: the layout, where it is not to be found by looking.
        caption_key: the key of the captions in a metadata file or JSON sidecar.
        progress: called with (done, total) pictures now and then.

    Raises:
        DataError: nothing there, or (nearly) no picture has a prompt where one is needed.
        OutputError: the cache cannot be written.
    """
    source = find(Path(path), captions_from, drawn=drawn)
    records = read_records(source, Problems(), caption_key)
    if source.layout != "shards":
        records = _with_prompts(source, records)
    known = {record.name for record in records}
    lacking = [name for name in source.images if name not in known and source.layout != "shards"]
    if not captions:
        records += [Record(name, ("",), str(source.root / name)) for name in lacking]
    records = sorted(
        (one for one in records if one.captions), key=lambda record: (record.file, record.name)
    )
    if not records:
        raise DataError(
            f"{path}: no picture with a prompt was found",
            "give captions as for training, pictures of t2i sample with their metadata, or "
            "--metrics kid,fid,prdc, which need none",
        )
    used = {record.name for record in records}

    def read(problems: Problems) -> list[Record]:
        for name in source.images:
            if name not in used:
                problems.add("left-out", name, what="without a prompt of its own is left out")
        return records

    said = json.dumps([(record.name, record.captions) for record in records])
    digest = hashlib.sha256(f"{digest_of(source, caption_key)} {said}".encode()).hexdigest()
    return loaded(
        path,
        replace(source, own=()),
        digest,
        read,
        resolution,
        image_channels=image_channels,
        cache=cache,
        drawn=drawn,
        progress=progress,
    )


def _with_prompts(source: Source, records: list[Record]) -> list[Record]:
    """The records, and those of other pictures whose prompt is in a row or in themselves; sheets left out."""
    known = {record.name for record in records}
    rows = _rows(source)
    found = list(records)
    for name in source.images:
        if name in known:
            continue
        file = source.root / name
        recipe = _recipe(file)
        if recipe is not None and recipe.kind in ("grid", "morph"):
            found.append(Record(name, (), str(file)))  # known, and no picture of one prompt
            continue
        prompt = rows.get(str(file.resolve())) or (recipe.prompt if recipe is not None else "")
        if captions := words.clean([prompt]):
            found.append(Record(name, captions, str(file)))
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
    tables = {*source.tables, *source.texts}
    for name in sorted(one for one in tables if one.lower().endswith(".jsonl")):
        table = source.root / name
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
