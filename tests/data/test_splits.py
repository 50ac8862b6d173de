"""Reliability 23: the record of a split says which pictures of any data a model was not trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from t2i_cli.data import CaptionedImages, DataReport
from t2i_cli.data.splits import MOST, UNKNOWN, read_records, split_record, unseen


def pictures(count: int, digest: str, splits: list[str] | None = None) -> CaptionedImages:
    return CaptionedImages(
        np.zeros((count, 1, 1, 3), np.uint8), [["a"]] * count, [f"{k}.png" for k in range(count)],
        splits or [""] * count, [{}] * count, [hashlib.sha256(b"%d" % k).hexdigest() for k in range(count)], digest,
        DataReport("x", "y", count, count, 1),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("val", [0.02, 0.2])
def test_what_a_run_held_out_is_unseen_also_when_the_data_has_grown(seed: int, val: float) -> None:
    before = pictures(200, "before")
    train, held_out = before.split(val, seed)
    record = json.loads(json.dumps(split_record(before, val, seed)))
    found = unseen(before, [record])
    assert found is not None and (np.flatnonzero(found) == held_out).all()
    grown = pictures(2000, "grown")
    found = unseen(grown, [record])
    assert found is not None
    assert not found[train].any() and found[held_out].all()
    # of what is new a share is known to be unseen: whatever it was, the run would have held it out
    assert abs(found[200:].mean() - val) < 0.03 + val / 2
    # the usual split would have measured on pictures that were trained on
    assert np.isin(grown.split(0.02, 0)[1], train).any() or seed == 0


def test_named_splits_rule_where_the_data_is_the_same() -> None:
    named = pictures(30, "named", ["train"] * 20 + ["val"] * 10)
    record = split_record(named, 0.5, 3)
    assert record["last"] == ""
    found = unseen(named, [record])
    assert found is not None and np.flatnonzero(found).tolist() == list(range(20, 30))
    assert unseen(replace(named, digest="other"), [record]) is None


def test_several_records_leave_what_none_of_them_saw() -> None:
    data = pictures(400, "data")
    records = [split_record(data, 0.3, seed) for seed in (1, 2)]
    found = unseen(data, records)
    both = set(data.split(0.3, 1)[1]) & set(data.split(0.3, 2)[1])
    assert found is not None and set(np.flatnonzero(found)) == both
    assert unseen(data, [*records, UNKNOWN]) is None


OLD = {"t2i.data": "d", "t2i.train_config": json.dumps({"val": 0.1, "seed": 4})}


@pytest.mark.parametrize(
    ("told", "records"),
    [
        (OLD, [{"data": "d", "val": 0.1, "seed": 4}]),
        ({}, [UNKNOWN]),
        ({"t2i.splits": "[]"}, [UNKNOWN]),
        ({"t2i.splits": "{"}, [UNKNOWN]),
        ({"t2i.splits": "[3]"}, [UNKNOWN]),
        ({"t2i.splits": '[{"data": "d", "val": "x", "seed": 1}]'}, [UNKNOWN]),
        ({"t2i.splits": '[{"data": "d", "val": 0.1, "seed": 1, "last": "no"}]'}, [UNKNOWN]),
        ({"t2i.splits": json.dumps([{"data": ""}] * (MOST + 1))}, [UNKNOWN]),
        ({"t2i.splits": "[" * 100_000}, [UNKNOWN]),
        ({"t2i.train_config": "7"}, [UNKNOWN]),
    ],
)
def test_records_of_strangers(told: dict[str, str], records: list[dict[str, Any]]) -> None:
    assert read_records(told) == records


# -- runs that went on with other pictures


@pytest.mark.parametrize("seed", range(3))
def test_what_a_run_kept_on_its_side_is_told_from_what_the_rule_says(seed: int) -> None:
    before = pictures(100, "before")
    train, held_out = before.split(0.2, seed)
    sides = {before.hashes[row]: "train" for row in train}
    sides |= {before.hashes[row]: "val" for row in held_out}
    for grown in (pictures(400, "grown"), pictures(60, "shrunk")):
        learned, outside = grown.split(0.2, seed, sides)
        ever = {before.hashes[row] for row in train} | {grown.hashes[row] for row in learned}
        record = json.loads(json.dumps(split_record(grown, 0.2, seed, ever)))
        assert read_records({"t2i.splits": json.dumps([record])}) == [record]
        for measured in (grown, before, pictures(1000, "other")):
            found = unseen(measured, [record])
            assert found is not None
            known = {measured.hashes[row] for row in np.flatnonzero(found)}
            assert not known & ever
        found = unseen(grown, [record])
        assert found is not None
        assert found.sum() >= len(outside) - 10  # nearly all of what it holds out


def test_a_picture_that_was_trained_on_before_it_was_named_held_out() -> None:
    named = pictures(30, "named", ["train"] * 20 + ["val"] * 10)
    record = split_record(named, 0.5, 3, set(named.hashes[:21]))
    assert record["trained"] == [named.hashes[20][:16]]
    found = unseen(named, [record])
    assert found is not None and np.flatnonzero(found).tolist() == list(range(21, 30))


def test_pictures_of_a_test_split_are_unseen() -> None:
    named = pictures(40, "tests", ["train"] * 30 + ["test"] * 10)
    record = split_record(named, 0.2, 3)
    assert record["last"]  # nothing was named to be held out, so a share was
    found = unseen(named, [record])
    assert found is not None and found[30:].all() and found[:30].sum() == 6


def test_too_many_exceptions_are_not_known() -> None:
    many = pictures(20_000, "many")
    assert split_record(many, 0.5, 0, set(many.hashes)) == UNKNOWN


@pytest.mark.parametrize("trained", ["x", [3], [""], [["a"]], {"a": 1}, ["a"] * 5000])
def test_a_list_of_strangers(trained: object) -> None:
    told = [{"data": "d", "val": 0.1, "seed": 4, "last": "", "trained": trained}]
    assert read_records({"t2i.splits": json.dumps(told)}) == [UNKNOWN]
