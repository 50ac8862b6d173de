"""File names as captions, only when asked for: ``red_cat-03.png`` is "red cat"."""

from __future__ import annotations

from t2i_cli.data import captions as words
from t2i_cli.data.layouts.base import Found
from t2i_cli.data.listing import Listing
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.report import Problems, Record

__all__ = ["read"]


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where ``--captions-from name`` asks for it."""
    if options.captions_from != "name":
        return None
    records: list[Record] = []
    for image in listing.images:
        if captions := words.from_name(image):
            records.append(Record(image, captions, listing.place(image)))
        else:
            problems.add("no-caption", image, mend="name it by what it shows, such as red_cat.png")
    if not listing.images:
        problems.add("empty", what="no picture was found", mend="name pictures by what they show")
    return Found("file names as captions", records, sure=True)
