"""What the weights' records say they were trained on -> the pictures to measure on, and what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2i_cli.data import CaptionedImages
from t2i_cli.data.splits import unseen
from t2i_cli.errors import visible

__all__ = ["Seen", "seen_by", "warnings_of"]


@dataclass(frozen=True)
class Seen:
    """What no subject was trained on, as far as that is known."""

    train: np.ndarray  # int64, rows that a subject was trained on
    held_out: np.ndarray  # int64, rows that none was
    unknown: tuple[str, ...] = ()  # subjects of which it is not known


def seen_by(
    images: CaptionedImages, records: Mapping[str, Sequence[dict[str, Any]] | None]
) -> Seen:
    """The split that the subjects' weights record; where none does, the usual one. Where there is a test split, that.

    Args:
        images: that are measured on.
        records: of each subject, as `data.splits.read_records` gives them; None: a folder of pictures.
    """
    known: list[np.ndarray] = []
    unknown: list[str] = []
    for name, told in records.items():
        rows = None if told is None else unseen(images, told)
        if rows is None:
            unknown.append(name)
        else:
            known.append(rows)
    if not known:
        return Seen(*images.split_to_measure(0.02, 0), tuple(unknown))
    rows = np.logical_and.reduce(known)
    tests = rows & np.array([split == "test" for split in images.splits], bool)
    held_out = tests if tests.any() else rows
    return Seen(np.flatnonzero(~rows), np.flatnonzero(held_out), tuple(unknown))


def warnings_of(seen: Seen, *, has_held_out: bool) -> tuple[str, ...]:
    """What a reader of the figures has to know about what was seen in training.

    Args:
        seen: by the subjects.
        has_held_out: whether what is held out is enough to measure on, and so is all that is measured on.
    """
    told: list[str] = []
    if seen.unknown:
        names = ", ".join(visible(name, 80) for name in seen.unknown)
        told.append(
            f"these pictures may have been seen in training: nothing says what {names} was trained on"
        )
    if not has_held_out and len(seen.train):
        count = len(seen.held_out)
        told.append(f"pictures that were trained on are measured too: only {count} are held out")
    return tuple(told)
