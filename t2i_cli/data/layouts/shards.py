"""Tar shards, as img2dataset and webdataset write them: ``key.png`` with ``key.txt`` and/or ``key.json``.

A key may hold dots: the caption file of the picture's whole name goes first, then that of a
shorter one, so ``logo v1.2.png`` goes with ``logo v1.2.txt`` and ``k.left.png`` with ``k.txt``.
"""

from __future__ import annotations

from t2i_cli.data.layouts.base import Found
from t2i_cli.data.layouts.sidecar import by_key, records_of
from t2i_cli.data.listing import Listing
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.report import Problems

__all__ = ["read"]


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where the listing is of archives."""
    if not listing.containers:
        return None
    groups = by_key((*listing.captions, *listing.jsons))
    paired = {image: _of_key(image, groups) for image in listing.images}
    records, notes = records_of(
        listing,
        paired,
        options,
        problems,
        lambda image: f"add {image.rpartition('.')[0].partition('/')[2]}.txt to the shard",
    )
    used = {text for texts in paired.values() for text in texts}
    for text in listing.captions:
        if text not in used:
            problems.add("stray-caption-file", text, mend="pack it again")
    zips = sum(name.lower().endswith(".zip") for name in listing.containers)
    kind = "zip archives" if zips == len(listing.containers) else "tar shards"
    return Found(f"{kind} ({len(listing.containers)})", records, notes=notes)


def _of_key(image: str, groups: dict[str, list[str]]) -> list[str]:
    """The caption files of a picture's key, the longest that has any."""
    folder, slash, base = image.rpartition("/")
    key = base
    while key:
        if found := groups.get(f"{folder}{slash}{key}"):
            return found
        key = key.rpartition(".")[0]
    return []
