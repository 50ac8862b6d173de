"""What a model was trained on: a run's split as its weights record it, and what that says of any data.

Where data names no split, a picture is held out by its own bytes and the run's seed, so the record also tells apart the
pictures of other data, or of data to which some were added since. What a run trained on before its data changed, and
what it kept on its side since, is listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, Protocol, cast

import numpy as np

__all__ = [
    "MOST",
    "TRAIN",
    "UNKNOWN",
    "names_held_out",
    "order_of",
    "read_records",
    "split_record",
    "unseen",
]

TRAIN = ("", "train")  # splits that are trained on

UNKNOWN: dict[str, Any] = {
    "data": ""
}  # the record of weights that do not say what they were trained on
MOST = 64  # records of one model: its own, and those of the weights that it started from
_MOST_KEPT = 4096  # pictures that one record lists
_DIGITS = 16  # hexadecimal, by which it lists them


class Pictures(Protocol):
    """What a split needs of `CaptionedImages`."""

    @property
    def splits(self) -> list[str]:
        """Of each picture, empty where the data names none."""
        ...

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of each picture's file."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the data."""
        ...

    def split(self, val: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices that train and that are held out."""
        ...


def order_of(seed: int, sha256: str) -> bytes:
    """Where a picture stands among all: the first ones are held out."""
    return hashlib.sha256(f"{seed}:{sha256}".encode()).digest()


def names_held_out(splits: Collection[str]) -> bool:
    """Whether data names both a split that is trained on and one that is held out: nothing is left to choose."""
    every = set(splits)
    return any(one in TRAIN for one in every) and bool(every - {*TRAIN, "test"})


def split_record(
    images: Pictures, val: float, seed: int, trained: Collection[str] = ()
) -> dict[str, Any]:
    """What a run's weights say of its split.

    Args:
        images: that it learns from.
        val: share that is held out where the data names no split.
        seed: of the run.
        trained: SHA-256 of every picture that it ever trained on, where its data changed on its way.
    """
    _, held_out = images.split(val, seed)
    outside = {images.hashes[int(row)] for row in held_out}
    last = ""
    if outside and not names_held_out(images.splits):
        last = max(order_of(seed, one) for one in outside).hex()
    record = {"data": images.digest, "val": val, "seed": seed, "last": last}
    kept = {
        one[:_DIGITS]
        for one in trained
        if one in outside or (last and order_of(seed, one).hex() <= last)
    }
    if len(kept) > _MOST_KEPT:
        return UNKNOWN
    return {**record, "trained": sorted(kept)} if kept else record


def read_records(metadata: dict[str, str]) -> list[dict[str, Any]]:
    """The records in a weights file's metadata, its own first; `UNKNOWN` where there are none that can be read.

    Weights of older versions have the settings of their run, which say the same where they began from nothing.
    """
    try:
        if "t2i.splits" in metadata:
            told = json.loads(metadata["t2i.splits"])
        else:
            config = json.loads(metadata["t2i.train_config"])
            told = [{"data": metadata["t2i.data"], "val": config["val"], "seed": config["seed"]}]
        records = cast("list[dict[str, Any]]", told)
        if not 1 <= len(records) <= MOST:
            raise ValueError("number of records")
        for record in records:
            if not isinstance(record["data"], str):
                raise TypeError("data")
            if record["data"]:
                _check(float(record["val"]), int(record["seed"]), record.get("last", ""))
                _check_kept(record.get("trained", []))
        return records
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return [UNKNOWN]


def _check(val: float, seed: int, last: str) -> None:
    """Raise ValueError or TypeError where a record's values cannot be those of a run."""
    if not 0 <= val <= 0.5 or seed < 0:
        raise ValueError("out of range")
    bytes.fromhex(last)


def _check_kept(kept: object) -> None:
    """Raise ValueError or TypeError where a record's list of pictures cannot be that of a run."""
    if not isinstance(kept, list):
        raise TypeError("trained")
    rows = cast("list[object]", kept)
    if len(rows) > _MOST_KEPT or not all(isinstance(one, str) and one for one in rows):
        raise ValueError("trained")


def unseen(images: Pictures, records: Sequence[dict[str, Any]]) -> np.ndarray | None:
    """Which pictures none of these runs trained on.

    Args:
        images: to be measured on.
        records: of a model.

    Returns:
        bool (n,), or None where that is not known.
    """
    rows = np.ones(len(images.hashes), bool)
    for record in records:
        if record["data"] == images.digest:
            _, held_out = images.split(float(record["val"]), int(record["seed"]))
            mine = np.zeros(len(rows), bool)
            mine[held_out] = True
            mine |= np.array([split == "test" for split in images.splits], bool)
        elif record["data"] and record.get("last"):
            last, seed = bytes.fromhex(record["last"]), int(record["seed"])
            mine = np.array([order_of(seed, one) <= last for one in images.hashes], bool)
        else:
            return None
        if kept := set(record.get("trained", ())):
            mine &= np.array([one[:_DIGITS] not in kept for one in images.hashes], bool)
        rows &= mine
    return rows
