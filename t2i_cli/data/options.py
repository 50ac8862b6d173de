"""How a data set is to be read: what `check`, `train`, `eval` and `tokenize --train` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from t2i_cli.errors import UsageError
from t2i_cli.images import Fit

__all__ = ["MOST", "CaptionLines", "CaptionsFrom", "ReadOptions", "share_of"]

CaptionsFrom = Literal["folder", "name", "metadata", "sidecar", "shards"]
CaptionLines = Literal["join", "alternatives", "first"]

MOST = 0.5  # share of bad pictures above which something else is wrong with a set


@dataclass(frozen=True)
class ReadOptions:
    """What a user may say about a data set; each default finds out by looking."""

    captions_from: CaptionsFrom | None = None  # where captions are
    caption_key: str | None = None  # column or key of the captions
    caption_lines: CaptionLines | None = None  # what several lines of a caption file are
    fit: Fit | None = None  # of pictures that are not square; None: crop opaque ones, pad others
    follow_links: bool = True  # symbolic links in folders; those in archives never are
    max_bad: float = MOST  # share of bad pictures, 0 to 1, above which the set is refused

    def __post_init__(self) -> None:
        """Raise UsageError where a value is none of its option's."""
        for name, values in (
            ("captions_from", get_args(CaptionsFrom)),
            ("caption_lines", get_args(CaptionLines)),
            ("fit", get_args(Fit)),
        ):
            value = getattr(self, name)
            if value is not None and value not in values:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} {value}: not known", f"use {', '.join(values)}")
        if not 0 <= self.max_bad <= 1:
            raise UsageError("--max-bad: expected a share from 0% to 100%", "for example 5%")

    def told(self) -> str:
        """What decides captions and pixels, as one line: part of a data set's digest."""
        values = (self.captions_from, self.caption_key, self.caption_lines, self.fit)
        return f"{values!r} {self.follow_links}"


def share_of(text: str, flag: str = "--max-bad") -> float:
    """A share as people write it -> 0 to 1.

    >>> share_of("5%"), share_of("0.05"), share_of("100%")
    (0.05, 0.05, 1.0)

    Raises:
        UsageError: it is no share.
    """
    number = text.strip()
    try:
        value = float(number.removesuffix("%").strip()) / (100 if number.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{flag} {text}: expected a share", f"for example {flag} 5%")
    return value
