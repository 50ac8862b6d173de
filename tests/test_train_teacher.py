"""A run with a teacher: stopped and resumed it ends with the same bytes, and another teacher is told apart."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from t2i_cli import checkpoint
from t2i_cli.cli import run
from t2i_cli.errors import Stopped, UsageError
from t2i_cli.training import prepare
from tests.toy_runs import (
    all_of,
    differences,
    ends,
    rows_of,
    said,
    settings,
    stop_in_step,
)
from tests.training.test_teacher import Reader, reader

pytestmark = pytest.mark.usefixtures("small_runs")

TAUGHT = {
    "text_encoder": "/some/folder/reader",
    "steps": 8,
    "contrastive": 0.5,
    "autoencoder": 0.25,
    "flow": 0.25,
}


@pytest.fixture
def _reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "load_teacher", lambda *_: reader())


def taught(data: Path, tmp_path: Path, name: str = "run", **more: Any) -> Any:
    config = {**TAUGHT, **more.pop("config", {})}
    return settings(data, tmp_path / name, config=config, cache=tmp_path / "cache", **more)


@pytest.mark.usefixtures("_reader")
def test_a_taught_run_resumes_to_the_same_bytes_and_ships_nothing_of_its_teacher(
    data: Path, tmp_path: Path
) -> None:
    told = ends(taught(data, tmp_path, "unbroken"))
    assert any(line.startswith("reader teaches: ") for line in said(told))
    rows = rows_of(tmp_path / "unbroken")
    taught_rows = {row["stage"] for row in rows if "teacher_loss" in row}
    assert taught_rows == {"contrastive"}
    for after in (2, 3):  # within the contrastive stage, then after it
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            ends(taught(data, tmp_path, resume=True, stop=stop_in_step(patch, after)))
    ends(taught(data, tmp_path, resume=True))
    assert Reader.calls == 0  # since it was loaded: what it said is in the cache
    assert differences(all_of(tmp_path / "run"), all_of(tmp_path / "unbroken")) == []
    ends(taught(data, tmp_path, "alone", config={"text_encoder": "builtin"}))
    told_to_anyone = checkpoint.read_info(tmp_path / "unbroken" / "model.safetensors").metadata[
        "t2i.train_config"
    ]
    assert json.loads(told_to_anyone)["text_encoder"] == "reader"  # of /some/folder/reader
    words = checkpoint.load_model(tmp_path / "unbroken" / "model.safetensors").words.decode()
    assert "\norb=ball\n" in words  # what the teacher holds for near, for prompts
    taught_one, alone = (
        checkpoint.load_model(tmp_path / name / "model.safetensors").networks.state_dict()
        for name in ("unbroken", "alone")
    )
    assert {n: t.shape for n, t in taught_one.items()} == {n: t.shape for n, t in alone.items()}
    assert any(
        not torch.equal(t, alone[n]) for n, t in taught_one.items() if n.startswith("text_encoder")
    )


@pytest.mark.usefixtures("_reader")
def test_another_teacher_is_another_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        ends(taught(data, tmp_path, stop=stop_in_step(patch, 2)))
    monkeypatch.setattr(
        prepare, "load_teacher", lambda *_: dataclasses.replace(reader(), digest="other")
    )
    with pytest.raises(UsageError, match="the language model that teaches it is another one now"):
        ends(taught(data, tmp_path, resume=True))


def test_the_command_says_in_one_line_what_is_missing(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ask = ["train", str(data), "-o", str(tmp_path / "run"), "--steps", "2", "--resolution", "32"]
    assert run([*ask, "--text-encoder", "lsmt"]) == 2
    assert "no such text encoder" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        assert run([*ask, "--text-encoder", str(empty)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "needs transformers" in told.err
    assert "Traceback" not in told.err
    pytest.importorskip("transformers")
    assert run([*ask, "--text-encoder", str(empty)]) == 3
    assert "cannot be used as a text model" in capsys.readouterr().err
