"""What every layout gives: the pictures it found with their captions, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from t2i_cli.data.listing import Listing
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.report import Problems, Record

__all__ = ["Found", "Reader"]


@dataclass
class Found:
    """What a layout made of a listing."""

    phrase: str  # for the first line that a user reads
    records: list[Record]
    sure: bool = False  # it is this layout even where it gives nothing
    notes: list[str] = field(default_factory=list[str])  # what was decided by looking
    texts: tuple[str, ...] = ()  # caption files that it does not read


# None: the listing is not of this layout
Reader = Callable[[Listing, ReadOptions, Problems], Found | None]
