"""Captions in a folder beside the pictures' folder: ``images/x.png`` with ``captions/x.txt``."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from t2i_cli.data.layouts.base import Found
from t2i_cli.data.layouts.sidecar import records_of
from t2i_cli.data.listing import Listing
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.report import Problems
from t2i_cli.data.split_names import GENERIC_FOLDERS

__all__ = ["read"]

_BOXES = re.compile(rb"\s*(\d+(\s+-?[\d.]+){4,}\s*)+")  # what detectors of objects are trained on
_PROBE = 20  # files that are looked at


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where texts in other folders have the pictures' names."""
    texts = [
        name
        for name in (*listing.captions, *listing.jsons)
        if "/" in name and name.rpartition(".")[0] not in listing.stems
    ]
    if not texts or not listing.images or _are_boxes(listing, texts):
        return None
    paired = _pairs(listing.images, texts)
    if not paired:
        return None
    records, notes = records_of(
        listing, paired, options, problems, lambda image: f"add a text for it beside {texts[0]}"
    )
    used = {text for names in paired.values() for text in names}
    for text in texts:
        if text not in used and not text.lower().endswith(".json"):
            problems.add("stray-caption-file", text)
    pictures = PurePosixPath(next(iter(paired))).parent
    folder = PurePosixPath(next(iter(used))).parent
    return Found(f"pictures in {pictures}/ with captions in {folder}/", records, notes=notes)


def _pairs(images: list[str], texts: list[str]) -> dict[str, list[str]]:
    """Pictures and texts whose paths are the same but for folders that say what kind of file they hold."""
    by_path: dict[str, list[str]] = {}
    by_base: dict[str, list[str]] = {}
    for text in texts:
        by_path.setdefault(_plain(text), []).append(text)
        by_base.setdefault(PurePosixPath(text).stem, []).append(text)
    bases: dict[str, int] = {}
    for image in images:
        base = PurePosixPath(image).stem
        bases[base] = bases.get(base, 0) + 1
    paired: dict[str, list[str]] = {}
    for image in images:
        base = PurePosixPath(image).stem
        found = by_path.get(_plain(image), [])
        if not found and bases[base] == 1 and len(by_base.get(base, [])) == 1:
            found = by_base[base]
        if found:
            paired[image] = found
    return paired


def _plain(name: str) -> str:
    path = PurePosixPath(name)
    folders = [part for part in path.parts[:-1] if part.lower() not in GENERIC_FOLDERS]
    return "/".join([*folders, path.stem])


def _are_boxes(listing: Listing, texts: list[str]) -> bool:
    some = [name for name in texts if not name.lower().endswith(".json")][:_PROBE]
    found = 0
    for name in some:
        try:
            found += _BOXES.fullmatch(listing.read(name)) is not None
        except (OSError, ValueError):
            continue
    return bool(some) and 2 * found > len(some)
