"""COCO captions JSON: ``images`` with ids and file names, ``annotations`` with image ids and captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, cast

from t2i_cli.data import captions as words
from t2i_cli.data import tables
from t2i_cli.data.layouts.base import Found
from t2i_cli.data.layouts.metadata import Matching, above, match, own_names
from t2i_cli.data.listing import Listing
from t2i_cli.data.names import Names
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.report import Problems

__all__ = ["read"]

_OTHER_TASKS = ("instances", "person_keypoints", "stuff", "panoptic", "image_info")


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where a JSON file of this form has captions of pictures here."""
    places = [listing, *(above(listing) if listing.images and not listing.containers else ())]
    for place in places:
        state = Matching(Names(listing.images), None, own_names(listing))
        faults = Problems()
        used: list[str] = []
        for name in place.jsons:
            document = _document(place, name)
            if document is not None:
                used.append(name)
                rows = _rows(document, name, options.caption_key or "caption")
                match(state, rows, listing, "", name, faults)
        if state.found:
            problems.update(faults)
            for image in listing.images:
                if image not in state.listed:
                    problems.add("unlisted", image, mend=f"add a caption for it to {used[0]}")
            more = f" and {len(used) - 1} more" if len(used) > 1 else ""
            records = [state.found[name] for name in sorted(state.found)]
            return Found(f"COCO captions in {used[0]}{more}", records, texts=())
    return None


def _document(listing: Listing, name: str) -> dict[str, Any] | None:
    base = PurePosixPath(name).name.lower()
    if base.startswith(_OTHER_TASKS) or name.rpartition(".")[0] in listing.stems:
        return None
    try:
        content = listing.read(name, tables.MAX_TABLE)
    except (OSError, ValueError):
        return None
    if b'"images"' not in content or b'"image_id"' not in content or b'"caption' not in content:
        return None
    value = words.json_value(content)
    if not isinstance(value, dict):
        return None
    document = cast("dict[str, Any]", value)
    lists = (document.get("images"), document.get("annotations"))
    return document if all(isinstance(one, list) for one in lists) else None


def _rows(document: dict[str, Any], name: str, caption_key: str) -> Iterator[tables.Row]:
    """A row a caption, in the order of the annotations."""
    files: dict[object, dict[str, object]] = {}
    for image in cast("list[object]", document["images"]):
        if isinstance(image, dict):
            told = cast("dict[str, object]", image)
            identity = told.get("id")
            if isinstance(identity, int | str):
                files[identity] = told
    for number, annotation in enumerate(cast("list[object]", document["annotations"]), 1):
        if not isinstance(annotation, dict):
            continue
        told = cast("dict[str, object]", annotation)
        identity = told.get("image_id")
        image = files.get(identity) if isinstance(identity, int | str) else None
        if image is not None and caption_key in told:
            file = image.get("file_name") or image.get("filename")
            yield f"{name}: annotation {number}", {"file_name": file, "text": told[caption_key]}
