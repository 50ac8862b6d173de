"""Tar shards, as img2dataset and webdataset write them -> records. Streamed, never extracted.

A sample is what shares a key: the name up to the first dot of its last part. Captions come from
``key.txt`` (or ``.caption``), then from ``key.json``.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from t2i_cli.data import captions as words
from t2i_cli.data.layouts import Source, is_hidden
from t2i_cli.data.metadata import wrong_key
from t2i_cli.data.report import Problems, Record
from t2i_cli.data.tar import Ending, Member, Skipped, members
from t2i_cli.images import MAX_FILE_BYTES, SUFFIXES

__all__ = ["is_compressed", "open_shard", "read_shards"]

_MAX_TEXT = 2**20  # bytes, of a caption or JSON member
_MAX_KEYS = 64  # different keys that are remembered for a message


@dataclass
class _Sample:
    """What a shard holds under one key."""

    image: Member | None = None
    captions: tuple[str, ...] = ()
    row: dict[str, object] | None = None


def is_compressed(path: str) -> bool:
    """Whether a shard has to be decompressed on the way."""
    return path.lower().endswith((".gz", ".tgz"))


def open_shard(path: str | Path) -> BinaryIO:
    """A shard's stream, decompressed where its name says so; cheap to move forwards."""
    if is_compressed(str(path)):
        return cast("BinaryIO", gzip.open(path, "rb"))
    return Path(path).open("rb", buffering=1 << 18)


def read_shards(source: Source, problems: Problems, caption_key: str | None) -> list[Record]:
    """A record for each picture with a caption, in the order of shards and of members in them."""
    records: list[Record] = []
    keys: dict[str, None] = {}
    pictures = 0
    for shard in source.texts:
        file = str(source.root / shard)
        for key, sample in _read_shard(source.root, shard, problems).items():
            if sample.image is None:
                if sample.captions or sample.row:
                    problems.add("stray-caption-file", f"{shard}: {key}", mend="pack it again")
                continue
            pictures += 1
            row = sample.row or {}
            if len(keys) < _MAX_KEYS:
                keys.update(dict.fromkeys(list(row)[:_MAX_KEYS]))
            captions = words.from_row(row, caption_key)
            if not caption_key:
                captions = words.clean(sample.captions + captions)
            member = sample.image
            name = f"{shard}/{member.name}"
            if not captions:
                problems.add("no-caption", name, mend=f"add {key}.txt to the shard")
                continue
            meta = words.meta_of(row, (caption_key or "",))
            split = words.split_of(row)
            records.append(Record(name, captions, file, member.offset, member.size, split, meta))
    if not pictures:
        problems.add(
            "empty",
            what="the shards hold no picture" if source.texts else "no tar shard was found",
            mend="write shards with key.png and key.txt",
        )
    elif not records:
        wrong_key(problems, keys, caption_key)
    return records


def _read_shard(root: Path, shard: str, problems: Problems) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    path = root / shard
    if not path.is_file():
        problems.add("cut-shard", f"{shard}: not a regular file")
        return samples
    length = -1 if is_compressed(shard) else path.stat().st_size
    try:
        with open_shard(path) as file:
            for member in members(file, MAX_FILE_BYTES, length):
                if isinstance(member, Ending):
                    if not member.whole:
                        problems.add("cut-shard", f"{shard}: {member.why}")
                    elif not member.marked:
                        problems.add("no-end-marker", shard)
                elif is_hidden(member.name.rpartition("/")[2]) or "__MACOSX/" in member.name:
                    continue
                elif isinstance(member, Skipped):
                    problems.add("skipped-member", f"{shard}: {member.name}: {member.why}")
                else:
                    _take(samples, member, file, shard, problems)
    except (OSError, EOFError, ValueError, zlib.error) as error:  # of the decompression too
        problems.add("cut-shard", f"{shard}: {getattr(error, 'strerror', None) or error}")
    return samples


def _take(
    samples: dict[str, _Sample], member: Member, file: BinaryIO, shard: str, problems: Problems
) -> None:
    """File one member under its key."""
    folder, slash, base = member.name.rpartition("/")
    stem, _, extension = base.partition(".")
    extension = extension.lower()
    is_image = f".{extension.rpartition('.')[2]}" in SUFFIXES
    if not stem or not (is_image or extension in ("txt", "caption", "json")):
        return
    sample = samples.setdefault(sys.intern(folder + slash + stem), _Sample())
    if is_image:
        sample.image = sample.image or member
        return
    if member.size > _MAX_TEXT:
        problems.add("bad-caption-file", f"{shard}: {member.name}: larger than 1 MB")
        return
    file.seek(member.offset)
    content = file.read(member.size)
    if extension == "json":
        sample.row = words.json_object(content)
        if sample.row is None:
            problems.add("bad-caption-file", f"{shard}: {member.name}: not a JSON object")
        return
    try:
        sample.captions += words.from_text(content)
    except ValueError:
        problems.add("bad-caption-file", f"{shard}: {member.name}: not UTF-8")
