"""`t2i info`: what files say about themselves, without torch and without trusting them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import faults
import numpy as np
import pytest

from t2i_cli import checkpoint, images, metadata
from t2i_cli.errors import DataError, InputError, WeightsError
from t2i_cli.info import MAX_POINTS, info, sparkline

SPY = "Looks bad: lower --lr."


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("info") / "tiny.safetensors"
    faults.save_tiny(
        path,
        1,
        license="Apache-2.0",
        extra={"t2i.step": "12", "t2i.images": "768", "t2i.stage": "flow"},
    )
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text('size = "tiny"\nresolution = 32\nsteps = 40\ntime = 0.0\n')
    (run / "data.json").write_text(
        '{"layout": "sidecar", "pairs": 7921, "captions": 8412, "words": 3310}'
    )
    for step in range(1, 31):
        stage = "contrastive" if step <= 10 else "flow"
        row = {
            "step": step, "stage": stage, "stage_progress": (step - 10 * (step > 10)) / 30,
            "progress": step / 40, f"{stage}_loss": 1 / step, "images": step * 64,
            "images_per_second": 9.5, "seconds": 2.0 * step, "eta_s": 61.0,
        }  # fmt: skip
        if step in (20, 21):
            row["advice"] = [{"signal": "spy", "text": SPY}]
        checkpoint.append_line(run / "log.jsonl", json.dumps(row))
    (run / "samples").mkdir()
    (run / "samples" / "00000030.png").write_bytes(b"")
    checkpoint.save_state(run, 28, faults.tensors_at(28), {})
    faults.save_tiny(run / "model.safetensors", 1, extra={"t2i.step": "28", "t2i.stage": "flow"})
    return run


def test_a_weights_file(weights: Path):
    report = info(weights)
    told = dict(report.lines())
    assert report.kind == "weights"
    assert told["title"] == "tiny 1"
    assert told["license"] == "Apache-2.0"
    assert told["pictures"] == "32 x 32 px, RGBA"
    assert told["trained"] == "12 steps, 768 pictures seen, up to the flow stage"
    assert told["sha256"] == checkpoint.read_info(weights).hash
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    count = sum(value.numel() for value in faults.tiny_networks().state_dict().values())
    assert data["parameters"] == count
    assert told["networks"].count(",") >= 4  # five of them
    assert told["style"] == "bold, light"
    assert told["references"].startswith("5 compressed training pictures, which it draws from")
    assert "--no-references" in told["references"]
    assert (data["reference_count"], data["channels"]) == (5, 4)
    assert data["config"] == json.loads(json.dumps(faults.tiny_config().to_dict()))
    assert data["metadata"]["format"] == "pt"


def test_weights_without_references_and_of_opaque_pictures(tmp_path: Path):
    config = dataclasses.replace(
        faults.tiny_config(),
        opaque=True,
        attributes=(dataclasses.replace(faults.tiny_config().attributes[0], default="light"),),
    )
    path = tmp_path / "x.safetensors"
    checkpoint.save_model(path, faults.tiny_states(), config, faults.TOKENIZER)
    told = dict(info(path).lines())
    assert told["references"] == "none: the file holds no training pictures"
    assert told["pictures"] == "32 x 32 px, RGB"
    assert told["style"] == "bold, light (default)"
    assert (info(path).to_dict()["reference_count"], info(path).to_dict()["channels"]) == (0, 3)


def test_a_damaged_weights_file_is_refused(weights: Path, tmp_path: Path):
    data = bytearray(weights.read_bytes())
    data[-9] ^= 4
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"x\.safetensors: damaged"):
        info(tmp_path / "x.safetensors")


def test_a_run_that_stopped(run: Path):
    report = info(run)
    told = dict(report.lines())
    assert report.kind == "run"
    assert told["status"].startswith("stopped at step 30; go on with t2i train")
    assert told["budget"] == "40 steps"
    assert told["data"] == "sidecar, 7,921 pairs, 8,412 captions, 3,310 words"
    assert told["progress"] == "75.0%"
    assert told["trained for"] == "1 min 00 s"
    assert told["left"] == "1 min 01 s"
    assert told["last save"] == "step 28"
    assert "step 28 of the flow stage" in told["model"]
    assert told["samples"].startswith("1 grid, the last is")
    assert told["losses"] == "flow_loss 0.03333"
    assert [(stage.name, stage.rows) for stage in report.stages] == [
        ("contrastive", 10),
        ("flow", 20),
    ]
    assert report.stages[0].progress == 1.0
    assert report.stages[1].progress == pytest.approx(20 / 30)
    assert report.curves["contrastive_loss"] == tuple(1 / step for step in range(1, 11))
    assert report.verdict[1:] == (SPY,)  # once, though it is in two rows
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["last"]["step"] == 30


def test_a_run_that_is_done_and_healthy(run: Path):
    rows = [
        {"step": step, "stage": "flow", "progress": step / 2, "flow_loss": 0.5} for step in (1, 2)
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = info(run)
    assert report.verdict == ("finished; no sign of trouble in its log.",)
    assert "left" not in dict(report.lines())


@pytest.mark.parametrize(
    ("status", "why", "state", "told"),
    [
        # the last report of a run by time is made a little before its end
        ("finished", "", "finished", "finished"),
        ("stopped", "", "stopped", "stopped at step 30; go on with t2i train"),
        ("running", "", "killed", "killed at step 30; go on with t2i train"),
        ("failed", "disk full", "failed", "failed at step 30: disk full; go on with t2i train"),
        ("a\x1b[2J", "", "stopped", "stopped at step 30"),  # not one of ours: the log decides
    ],
)
def test_finished_stopped_failed_and_killed(
    run: Path, status: str, why: str, state: str, told: str
):
    (run / "status.json").write_text(json.dumps({"status": status, "why": why}))
    report = info(run)
    assert str(report.facts["status"]).startswith(told)
    assert report.to_dict()["state"] == state
    facts = dict(report.lines())
    assert facts["progress"] == ("100.0%" if state == "finished" else "75.0%")
    assert ("left" in facts) == (state != "finished")
    with checkpoint.RunLock(run):
        assert info(run).to_dict()["state"] == "running"


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"[" * 90_000, b'{"status": 3}', b"\xff"])
def test_a_status_that_is_none_is_passed_over(run: Path, content: bytes):
    (run / "status.json").write_bytes(content)
    assert info(run).to_dict()["state"] == "stopped"


def test_a_run_that_is_being_trained_is_not_disturbed(run: Path):
    with checkpoint.RunLock(run):
        report = info(run)
        assert str(report.facts["status"]).startswith(f"being trained by process {os.getpid()} on ")
    assert checkpoint.holder_of(run) is None


def test_a_run_with_damaged_files_still_tells_the_rest(run: Path):
    with (run / "log.jsonl").open("ab") as log:
        log.write(b'{"step": 31, "x": NaN, "flow_loss": Infinity}\n[1]\n\xff\n{"step": 3')
    for path in (run / "model.safetensors", next(run.glob("state/*/networks.safetensors"))):
        path.write_bytes(path.read_bytes()[:-1])
    (run / "data.json").write_text("{")
    report = info(run)
    told = dict(report.lines())
    assert told["log"] == "31 rows, 3 lines that are none"
    assert told["model"].startswith("not valid: cut short")
    assert told["last save"].startswith("not valid:")
    assert "data" not in told
    json.dumps(report.to_dict(), allow_nan=False)
    (run / "config.toml").write_text("= =")
    with pytest.raises(InputError, match=r"config\.toml: cannot be read"):
        info(run)


def test_a_run_just_begun(tmp_path: Path):
    (tmp_path / "config.toml").write_text('size = "tiny"\n')
    assert info(tmp_path).verdict == ("not begun: its log holds no row.",)


def test_a_log_from_a_stranger_prints_no_control_byte(tmp_path: Path):
    row = {
        "step": 1,
        "stage": "\x1b[31mflow",
        "loss\u202e": 1,
        "advice": ["\x9bm", {"text": "\x1b]0;x\x07"}, 3],
    }
    (tmp_path / "log.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps({**row, "seconds": 10**400}) + "\n"
    )
    report = info(tmp_path)
    for text in (*report.verdict, *(part for line in report.lines() for part in line)):
        assert text.isprintable(), text


def test_a_long_log_is_thinned(tmp_path: Path):
    rows = "".join(json.dumps({"step": step, "loss": float(step)}) + "\n" for step in range(5000))
    (tmp_path / "log.jsonl").write_text(rows)
    curve = info(tmp_path).curves["loss"]
    assert len(curve) == MAX_POINTS
    assert curve[0] == pytest.approx(np.mean(range(5000 // MAX_POINTS)), abs=1)
    assert list(curve) == sorted(curve)


@pytest.mark.parametrize("format", ["png", "webp", "jpg"])
def test_a_picture_of_ours(tmp_path: Path, format: str):
    recipe = metadata.Recipe(
        "a red cat", 123456789, guidance=1.5, steps=8, attributes="style=bold", references=3,
        read=(3, 17), model="tiny", model_hash="ab" * 32, version="0.1.0",
    )  # fmt: skip
    text = metadata.to_text(recipe, 8, 8)
    pixels = np.full((8, 8, 4), 200, np.uint8)
    (tmp_path / "out").write_bytes(
        images.encode(pixels, format, text=text, xmp=metadata.xmp(recipe))
    )
    report = info(tmp_path / "out")
    told = dict(report.lines())
    assert report.kind == "picture"
    assert (told["prompt"], told["seed"], told["guidance"], told["model"]) == (
        "a red cat",
        "123456789",
        "1.5",
        "tiny",
    )
    assert (told["format"], told["width"], told["height"]) == (format, "8", "8")
    assert (told["attributes"], told["read"]) == ("style=bold", "3, 17")
    assert not {"like", "sheet", "literal"} & set(told)  # of which there is nothing to say
    data = json.loads(json.dumps(report.to_dict()))
    assert data["generated"] is True
    assert data["recipe"]["model_hash"] == "ab" * 32
    assert (data["recipe"]["steps"], data["recipe"]["read"]) == (8, [3, 17])
    assert data["recipe"]["attributes"] == "style=bold"


def test_a_picture_of_somebody_else(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(images.encode(np.zeros((4, 6, 3), np.uint8), "png"))
    report = info(tmp_path / "a.png")
    assert report.facts["made by"] == "not known"
    assert report.to_dict()["generated"] is False
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    with pytest.raises(DataError, match=r"b\.png"):
        info(tmp_path / "b.png")


def test_what_is_nothing_of_the_kind(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no run"):
        info(tmp_path / "empty")
    for path in (tmp_path / "none", "x" * 5000, "a\0b"):
        with pytest.raises(InputError):
            info(path)
    (tmp_path / "text").write_text("hello, this is a text and nothing else")
    with pytest.raises(WeightsError, match="not a t2i weights file"):
        info(tmp_path / "text")


def test_no_torch_is_imported(weights: Path, run: Path):
    code = (
        "import sys; from t2i_cli.info import info\n"
        "for p in sys.argv[1:]: info(p).to_dict(); info(p).lines()\n"
        "print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(weights), str(run)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert told.stdout == "False\n"


def test_sparklines_keep_their_shape():
    assert sparkline([1, float("nan"), 2]) == "▁ █"
    assert sparkline([]) == ""
    assert sparkline([float("inf")] * 2) == "  "
    assert len(sparkline(range(1000), 30)) == 30
    assert sparkline(range(1000), 8) == "▁▂▃▄▅▆▇█"
