"""Class folders, only when asked for: ``red cat/001.jpg``, the folder's name is the caption."""

from __future__ import annotations

from t2i_cli.data import captions as words
from t2i_cli.data.layouts.base import Found
from t2i_cli.data.listing import Listing
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.report import Problems, Record

__all__ = ["read"]


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where ``--captions-from folder`` asks for it."""
    if options.captions_from != "folder":
        return None
    records: list[Record] = []
    for image in listing.images:
        inner = image.removeprefix(_container(listing, image))
        if captions := words.from_folder(inner):
            records.append(Record(image, captions, listing.place(image)))
        else:
            problems.add("no-caption", image, mend="move it into a folder named by its caption")
    if not listing.images:
        problems.add(
            "empty",
            what="no picture was found",
            mend="put pictures into folders named by their caption",
        )
    return Found("class folders", records, sure=True)


def _container(listing: Listing, image: str) -> str:
    return next((f"{one}/" for one in listing.containers if image.startswith(f"{one}/")), "")
