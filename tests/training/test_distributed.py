"""Several processes learn what one does, and none outlives the others. What happens is in tests/ranks.py."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from t2i_cli import checkpoint
from t2i_cli.errors import UsageError
from t2i_cli.signals import StopRequest
from t2i_cli.training import distributed
from t2i_cli.training.stages import STAGES
from tests import ranks
from tests.toy_runs import rows_of

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all scenarios have been played."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, ranks.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def told(place: Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads((place / "told.json").read_text())


def learned(run: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load_state(run)
    assert state is not None
    return {f"{g}.{n}": t for g, group in state.files.items() for n, t in group.items()}


def same_bits(one: Path, other: Path) -> bool:
    a, b = learned(one), learned(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("form", "size"),
    [("own", 2), ("own", 4), ("equivariant", 2), ("founding", 2), ("relativistic", 2)],
)
def test_processes_learn_what_one_does(
    form: str, size: int, place: Path, told: dict[str, Any]
) -> None:
    """In every stage the weights move as in one process, and so does every figure: gradients by their norms too."""
    names = [f"steps-{form}-1", f"steps-{form}-{size}"]
    for name in names:
        assert [row["code"] for row in told[name]] == [0] * len(told[name]), told[name]
    alone = load_file(place / f"steps-{form}-1-0.safetensors")
    parts = [load_file(place / f"steps-{form}-{size}-{rank}.safetensors") for rank in range(size)]
    stages = ranks.stages_of(form)
    assert len(alone) == 2 * len(stages) + 2  # two steps of each, and two of them have an average
    for name, moved in alone.items():
        assert all(torch.equal(part[name], parts[0][name]) for part in parts)  # to the last bit
        assert float(moved.norm()) > 0
        # Adam's first step is the sign of a gradient, and a gradient of about 0 may have either
        assert float((parts[0][name] - moved).norm()) < 3e-2 * float(moved.norm()), name
    expected, found = (told[name][0]["told"] for name in names)
    assert found["images"] == expected["images"]
    for stage, steps in expected["figures"].items():
        for one, several in zip(steps, found["figures"][stage], strict=True):
            assert one.keys() == several.keys()
            for key, value in one.items():
                assert several[key] == pytest.approx(value, rel=1e-2, abs=1e-4), (stage, key)


def test_a_number_that_is_not_finite_on_one_is_left_out_by_all(told: dict[str, Any]) -> None:
    for row in told["poison"]:
        assert row["code"] == 0, row
        # skipped, nothing changed, and the next step is taken
        assert row["told"] == {stage: [True, True, False] for stage in STAGES}


def test_what_the_first_knows_all_know(told: dict[str, Any]) -> None:
    rows = [row["told"] for row in told["talk"]]
    for row in rows:
        assert (row["bytes"], row["json"], row["nothing"]) == ("from 0", {"rank": 0}, None)
        assert row["state"] == [7, {"best": -1.5}, [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]], 3]
        assert row["strides"]
        # the signals of any, kept as this process's own; the first one's clock
        assert row["agreed"] == [15, True, 15, False, 10.0, 2.5]
        assert row["gathered"] == [0.0, 1.0, 10.0, 11.0]
        assert row["other"] == "process 1 has other data than process 0"
    # d(sum of squares) = 2 x, twice over, since the mean over two processes is still to be taken
    assert [row["gradient"] for row in rows] == [[0.0, 4.0], [40.0, 44.0]]
    whole = torch.Generator().manual_seed(5)
    uniform, normal = torch.rand(3, 4, generator=whole), torch.randn(4, 3, generator=whole)
    assert torch.equal(torch.cat([torch.tensor(row["uniform"]) for row in rows], 1), uniform)
    assert torch.equal(torch.cat([torch.tensor(row["normal"]) for row in rows]), normal)


def test_a_run_of_two_is_a_run_of_one_and_the_first_alone_writes(
    place: Path, told: dict[str, Any]
) -> None:
    assert [row["code"] for row in told["alone"] + told["quiet"]] == [0, 0, 0]
    assert [row["told"]["steps"] for row in told["quiet"]] == [ranks.STEPS] * 2
    assert told["quiet"][0]["told"]["saves"] == told["alone"][0]["told"]["saves"]
    assert told["quiet"][1]["told"]["saves"] == []
    assert not (place / "quiet-of-1").exists()
    one, two = learned(place / "alone"), learned(place / "quiet")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        if not name.startswith("optimizer"):
            assert torch.allclose(tensor.float(), two[name].float(), atol=2e-4), name
    for a, b in zip(rows_of(place / "alone"), rows_of(place / "quiet"), strict=True):
        assert a.keys() == b.keys()
        for key in ("step", "stage", "images", "skipped", "progress"):
            assert a[key] == b[key]
        for key in {"contrastive_loss", "l1", "perceptual_loss", "flow_loss"} & a.keys():
            assert b[key] == pytest.approx(a[key], rel=1e-2)


def test_latents_are_encoded_once_for_all(place: Path, told: dict[str, Any]) -> None:
    """The first process encodes and reads, the others find it in the cache; so do those that go on."""
    assert [row["told"]["encoded"] for row in told["quiet"]] == [1, 0]
    assert [row["told"]["encoded"] for row in told["resumed"]] == [0, 0]
    # the pictures, the latents and the texts
    assert len(list((place / "quiet-cache" / "data").iterdir())) == 3


def test_a_signal_to_one_stops_all_after_one_save_and_they_go_on_to_the_same_bits(
    place: Path, told: dict[str, Any]
) -> None:
    for row in told["stopped"]:
        assert row["code"] == 143
        assert row["told"] == "Stopped: stopped at step 5; saved, go on with --resume"
    assert [row["code"] for row in told["resumed"]] == [0, 0]
    assert any("resumed at step 5" in text for text in told["resumed"][0]["told"]["messages"])
    assert same_bits(place / "stopped", place / "quiet")
    assert rows_of(place / "stopped") == rows_of(place / "quiet")


def test_another_number_of_processes_goes_on_and_says_so(place: Path, told: dict[str, Any]) -> None:
    (row,) = told["fewer"]
    assert row["code"] == 0
    assert row["told"]["steps"] == ranks.STEPS
    assert any("processes: 2 -> 1 since" in text for text in row["told"]["messages"])
    expected = learned(place / "quiet")
    for name, tensor in learned(place / "fewer").items():
        if not name.startswith("optimizer"):
            assert torch.allclose(tensor.float(), expected[name].float(), atol=2e-4), name


def test_a_killed_process_ends_the_others_and_the_run_goes_on_from_its_save(
    place: Path, told: dict[str, Any]
) -> None:
    first, second = told["killed"]
    assert second["code"] == -9
    assert first["code"] == 1
    assert first["told"] == "LostError: process 0 of 2 has lost the others"
    assert first["after"] - second["after"] < 30
    assert [row["code"] for row in told["killed resumed"]] == [0, 0]
    assert same_bits(place / "killed", place / "quiet")


def test_one_that_falls_silent_ends_the_others(told: dict[str, Any]) -> None:
    first, second = told["silent"]
    assert second["code"] == "silent"
    assert first["code"] == 1
    assert math.isfinite(first["after"])


def test_the_first_ones_clock_rules(told: dict[str, Any]) -> None:
    assert [row["code"] for row in told["time"]] == [0, 0]
    one, other = (row["told"]["steps"] for row in told["time"])
    assert one == other >= 3  # a step of each stage at least


def test_a_batch_that_cannot_be_shared_is_refused(told: dict[str, Any]) -> None:
    for row in told["shares"]:
        assert row["code"] == 2
        assert row["told"] == "UsageError: batch_size = 5: 2 processes cannot share it evenly"


def test_alone_everything_comes_back_as_it_was() -> None:
    tensor = torch.arange(4.0)
    assert distributed.world() == distributed.World(0, 1, 0)
    assert distributed.gather(tensor) is tensor
    assert distributed.average([], tensor) is tensor
    figures = {"a": 1.0}
    assert distributed.mean(figures) is figures
    assert distributed.share(4) == slice(0, 4)
    wish = StopRequest()
    assert distributed.agree(wish, (1.0,)) == (wish, (1.0,))
    a, b = (torch.Generator().manual_seed(1) for _ in range(2))
    assert torch.equal(distributed.uniform(a, 8, 3, dim=1), torch.rand(8, 3, generator=b))
    assert torch.equal(distributed.normal(a, 2, 3), torch.randn(2, 3, generator=b))


def test_who_is_who_comes_from_torchrun_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.launched().size == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert distributed.launched().size == 1  # a scheduler's variable, not torchrun's three
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.launched() == distributed.World(3, 4, 1)
    assert not distributed.launched().first
    assert distributed.device_name("cpu") == "cpu"
    assert distributed.device_name("cuda") == "cuda:1"
    for name in ("cuda:0", "mps"):
        with pytest.raises(UsageError, match="cannot share"):
            distributed.device_name(name)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert distributed.launched() == distributed.World()


def test_a_signal_that_torchrun_passes_on_counts_as_the_same() -> None:
    wish = StopRequest(grace=60.0)
    wish.receive(2)
    wish.receive(2)  # without grace this ends the process
    wish.receive(15)
    assert wish.signum == 2
    assert time.monotonic() - wish.since < 60
