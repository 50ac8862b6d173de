"""Runs that go on: a larger budget, pictures that were added or removed, and what is left out of the data."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import checkpoint, images
from t2i_cli.data import load
from t2i_cli.data.splits import read_records, unseen
from t2i_cli.errors import T2IError
from t2i_cli.info import info
from t2i_cli.training import events
from tests.toy_runs import ends, said, settings

pytestmark = pytest.mark.usefixtures("small_runs")

FLOW = {"contrastive": 0.0, "autoencoder": 0.0}


def test_a_finished_run_is_extended(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends(settings(data, run, config={"steps": 4, **FLOW}))
    told = ends(settings(data, run, resume=True, config={"steps": 4, **FLOW}))
    assert "the run is finished; to train longer: --resume with --steps 8" in said(told)
    told = ends(settings(data, run, resume=True, config={"steps": 7, **FLOW}))
    assert "the run is asked for 7 steps in all now: it goes on for 3 steps more" in said(told)
    state = checkpoint.load_state(run)
    assert state is not None
    assert state.step == 7
    assert tomllib.loads((run / "config.toml").read_text())["steps"] == 7
    told = ends(settings(data, run, resume=True, config={"steps": 2, **FLOW}))
    assert any("nothing is left to do" in text for text in said(told))
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})


def test_a_run_of_a_time_is_finished_and_can_be_extended(data: Path, tmp_path: Path) -> None:
    run, budget = tmp_path / "run", {"steps": 0, "time": 2.0, **FLOW}
    told = ends(settings(data, run, config=budget))
    assert isinstance(told[-1], events.Finished)
    assert info(run).to_dict()["state"] == "finished"
    again = ends(settings(data, run, config=budget, resume=True))
    assert not any(isinstance(event, events.Report) for event in again)  # nothing was left to do
    first = checkpoint.load_state(run)
    assert first is not None
    longer = first.meta["position"]["seconds"] + 3.0
    told = ends(settings(data, run, resume=True, config=budget | {"time": longer}))
    last = checkpoint.load_state(run)
    assert last is not None
    assert last.step > first.step
    assert last.meta["position"]["seconds"] >= longer
    assert any(f"the run is asked for {longer:.0f} s in all now" in text for text in said(told))


def sides(run: Path) -> dict[str, str]:
    """SHA-256 of each picture of a run -> train or val."""
    return {row[1]: row[2] for row in json.loads((run / "data.json").read_text())["pictures"]}


def test_new_pictures_are_told_and_used_and_keep_their_sides(data: Path, tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "data"
    shutil.copytree(data, copy)
    budget = {"val": 0.2, **FLOW}
    ends(settings(copy, run, config={"steps": 3, **budget}))
    before = sides(run)
    assert set(before.values()) == {"train", "val"}
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)
        (copy / f"new{k}.png").write_bytes(images.encode(pixels))
        (copy / f"new{k}.txt").write_text(f"noise number {k}")
    (copy / "00.png").unlink()
    told = ends(settings(copy, run, resume=True, config={"steps": 5, **budget}))
    assert any(
        "6 pictures were added, 1 picture was removed; it goes on" in text for text in said(told)
    )
    after = sides(run)
    assert len(after) == len(before) + 5
    assert all(after[sha256] == side for sha256, side in before.items() if sha256 in after)
    assert sum(side == "train" for sha256, side in after.items() if sha256 not in before) >= 3
    loaded = checkpoint.load_model(run / "model.safetensors")
    learned = sum(side == "train" for side in after.values())
    assert len(loaded.references) == learned  # the new ones are drawn from too
    records = read_records(loaded.info.metadata)
    ever = {sha256 for told in (before, after) for sha256, side in told.items() if side == "train"}
    for place in (copy, data):  # as it is now and as it was: what was trained on once is seen
        pictures = load(place, 32, cache=tmp_path / "cache")
        found = unseen(pictures, records)
        assert found is not None and found.any()
        assert not ever & {pictures.hashes[row] for row in np.flatnonzero(found)}
    told = ends(settings(copy, run, resume=True, config={"steps": 6, **budget}))
    assert not any("since the run was started" in text for text in said(told))
    assert read_records(checkpoint.read_info(run / "model.safetensors").metadata) == records
    assert sides(run) == after


def test_what_is_left_out_is_told(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    (copy / "03.png").write_bytes(b"junk")
    (copy / "05.txt").unlink()
    told = said(ends(settings(copy, tmp_path / "run", config={"steps": 1, **FLOW})))
    assert any(text.startswith("left out: 1 image has no caption (05.png") for text in told)
    assert any(text.startswith("left out: 1 file cannot be read (03.png") for text in told)
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [problem["kind"] for problem in report["problems"]] == ["no-caption", "unreadable"]


@pytest.mark.parametrize("bad", ["data", "tokenizer"])
def test_a_run_that_never_began_leaves_no_folder(data: Path, tmp_path: Path, bad: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run = tmp_path / "runs" / "deep" / "run"
    with pytest.raises(T2IError):
        if bad == "data":
            ends(settings(empty, run, config={"steps": 3}))
        else:
            ends(settings(data, run, config={"steps": 3}, tokenizer=empty / "none.model"))
    assert not (tmp_path / "runs").exists()


def test_photographs_train_from_a_model_of_transparent_pictures(data: Path, tmp_path: Path) -> None:
    ends(settings(data, tmp_path / "icons", config={"steps": 3}))
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 60, 3), np.uint8)
        (photos / f"{k}.jpg").write_bytes(images.encode(pixels, "jpg"))
        (photos / f"{k}.txt").write_text(f"noise number {k}")
    given = tmp_path / "icons" / "model.safetensors"
    ends(settings(photos, tmp_path / "run", config={"steps": 3, **FLOW}, init=given))
    assert checkpoint.read_info(tmp_path / "run" / "model.safetensors").config.opaque
    assert not checkpoint.read_info(given).config.opaque
