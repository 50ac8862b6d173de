"""What a model was trained on: a run's split as its weights record it, and what that says of any data.

Where data names no split, a picture is held out by its own bytes and the run's seed, so the record also tells apart the
pictures of other data, or of data to which some were added since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np

__all__ = ["UNKNOWN", "order_of", "read_records", "split_record", "unseen"]

UNKNOWN: dict[str, Any] = {
    "data": ""
}  # the record of weights that do not say what they were trained on
MOST = 64  # records of one model: its own, and those of the weights that it started from


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


def split_record(images: Pictures, val: float, seed: int) -> dict[str, Any]:
    """What a run's weights say of its split.

    Args:
        images: that it learns from.
        val: share that is held out where the data names no split.
        seed: of the run.
    """
    _, held_out = images.split(val, seed)
    named = any(split not in ("", "train") for split in images.splits)
    named = named and len(set(images.splits)) > 1
    last = ""
    if not named and len(held_out):
        rows = [int(row) for row in held_out]
        last = max(order_of(seed, images.hashes[row]) for row in rows).hex()
    return {"data": images.digest, "val": val, "seed": seed, "last": last}


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
        return records
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return [UNKNOWN]


def _check(val: float, seed: int, last: str) -> None:
    """Raise ValueError or TypeError where a record's values cannot be those of a run."""
    if not 0 <= val <= 0.5 or seed < 0:
        raise ValueError("out of range")
    bytes.fromhex(last)


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
        elif record["data"] and record.get("last"):
            last, seed = bytes.fromhex(record["last"]), int(record["seed"])
            mine = np.array([order_of(seed, one) <= last for one in images.hashes], bool)
        else:
            return None
        rows &= mine
    return rows
