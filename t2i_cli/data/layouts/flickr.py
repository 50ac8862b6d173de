"""A line a caption: Flickr8k's ``captions.txt`` and ``*.token``, Flickr30k's ``results.csv``, or any such list."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from t2i_cli.data import captions as words
from t2i_cli.data import tables
from t2i_cli.data.layouts.base import Found
from t2i_cli.data.layouts.metadata import Matching, above, match, own_names
from t2i_cli.data.listing import Listing
from t2i_cli.data.names import Names, Unmatched
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.report import Problems, Record

__all__ = ["read"]

_HEADER = re.compile(r"\s*(image|image_name|file_name|filename)\s*([,|\t;])", re.IGNORECASE)
_LINE = re.compile(
    r"""\s*"?(?P<image>[^\t|,;"]+?\.\w{3,5})"?(?:\#\d+)?\s*[\t,|;]\s*(?:\d+\s*\|\s*)?(?P<text>.+)$"""
)
_PROBE = 20  # lines that are looked at
_FEW = 20  # texts of any name that are looked into
_SPLITS = {"trainimages": "train", "devimages": "val", "testimages": "test"}


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where there is a file of such lines that name pictures."""
    own = [listing, *(above(listing) if listing.images and not listing.containers else ())]
    for place in own:
        for name in _candidates(place):
            found = _read(place, name, listing, options)
            if found is not None:
                records, faults = found
                problems.update(faults)
                _with_splits(place, records)
                return Found(f"captions in {name}, a line each", records)
    return None


def _candidates(listing: Listing) -> list[str]:
    """Files that may hold such lines, by their names; not the captions of one picture."""
    texts = [name for name in listing.captions if name.rpartition(".")[0] not in listing.stems]
    found: list[str] = []
    for name in (*texts, *listing.tables):
        base = PurePosixPath(name).name.lower()
        if (
            base in ("captions.txt", "results.csv", "results.txt")
            or base.endswith((".token", ".token.txt", ".lemma.token.txt"))
            or re.match(r"(flickr|results).*\.(csv|txt|token)$", base)
            or (name in texts and len(texts) <= _FEW)
        ) and "images.txt" not in base:
            found.append(name)
    return sorted(found, key=lambda name: ("lemma" in name.lower(), name))


def _read(
    place: Listing, name: str, listing: Listing, options: ReadOptions
) -> tuple[list[Record], Problems] | None:
    problems = Problems()
    try:
        text = tables.text_of(place, name, problems)
    except (ValueError, OSError):
        return None
    lines = [line for line in text.splitlines() if line.strip()]
    probe = lines[1 : _PROBE + 1] if lines and _HEADER.match(lines[0]) else lines[:_PROBE]
    if not probe or sum(_LINE.match(line) is not None for line in probe) * 2 < len(probe):
        return None
    state = Matching(Names(listing.images), options.caption_key, own_names(listing))
    match(state, _rows(lines, name), listing, name.rpartition("/")[0], name, problems)
    if not state.found:
        return None
    for image in listing.images:
        if image not in state.listed:
            problems.add("unlisted", image, mend=f"add a line for it to {name}")
    return [state.found[one] for one in sorted(state.found)], problems


def _rows(lines: list[str], name: str) -> Iterator[tables.Row]:
    for number, line in enumerate(lines, 1):
        if number == 1 and _HEADER.match(line):
            continue
        found = _LINE.match(line)
        if found is None:
            continue
        text = found["text"].strip()
        if text.startswith('"') and text.endswith('"') and len(text) > 1:
            text = next(csv.reader([text]), [text])[0]
        yield f"{name}:{number}", {"file_name": found["image"].strip(), "text": text}


def _with_splits(listing: Listing, records: list[Record]) -> None:
    """Put pictures into the splits that ``Flickr_8k.trainImages.txt`` and its like list."""
    splits: dict[str, str] = {}
    names = Names([record.name for record in records])
    for text in listing.captions:
        for part, split in _SPLITS.items():
            if f".{part}.txt" in text.lower():
                for line in words.lines_of(listing.read(text).decode("utf-8", "replace")):
                    try:
                        splits[names.find(line)] = split
                    except Unmatched:
                        continue
    for index, record in enumerate(records):
        if record.name in splits:
            records[index] = Record(
                record.name, record.captions, record.place, splits[record.name], record.attributes
            )
