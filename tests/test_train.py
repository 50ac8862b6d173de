"""The run goes on where it stood, to the last bit; it refuses what does not fit, and survives numbers that do not."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2i_cli import checkpoint, config, images
from t2i_cli import train as train_module
from t2i_cli.config import TrainConfig, learning_rates
from t2i_cli.data import load
from t2i_cli.data.splits import read_records, unseen
from t2i_cli.errors import Stopped, T2IError, TrainingError, UsageError
from t2i_cli.info import info
from t2i_cli.models import one_step
from t2i_cli.signals import StopRequest
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.train import TrainSettings, choose_device, plan, train
from t2i_cli.training import events
from t2i_cli.training.batches import Batches
from t2i_cli.words import Words
from tests.toys import MICRO, Toys

CLOCK = {"images_per_second", "memory_mb", "seconds", "eta_s"}
STEPS = 12
FROZEN = {"contrastive_lr": 1e-12, "flow_lr": 1e-12, "adversarial_lr": 1e-12}


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny preset, made smaller still."""
    monkeypatch.setitem(config.PRESETS, "tiny", MICRO)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("toys") / "data"
    place.mkdir()
    toys = Toys()
    for number, (pixels, captions) in enumerate(zip(toys.pixels, toys.captions, strict=True)):
        (place / f"{number:02}.png").write_bytes(images.encode(pixels))
        (place / f"{number:02}.txt").write_text("\n".join(captions))
    return place


def settings(folder: Path, out: Path, **more: Any) -> TrainSettings:
    options = {
        "resolution": 32,
        "vocab_size": 300,
        "time": 0.0,
        "steps": STEPS,
        "batch_size": 4,
        "contrastive_batch_size": 8,
    }
    return TrainSettings(
        folder, out, TrainConfig(**{**options, **more.pop("config", {})}), device="cpu", **more
    )


def ends(run: TrainSettings) -> list[events.Event]:
    return list(train(run))


def texts(told: list[events.Event]) -> list[str]:
    return [event.text for event in told if isinstance(event, events.Message)]


def bytes_of(run: Path) -> dict[str, Any]:
    """Everything that a run leaves and that the clock has no part in."""
    state = checkpoint.load_state(run)
    assert state is not None
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        "step": state.step,
        "tensors": {
            f"{g}.{n}": t.numpy().tobytes()
            for g, group in state.files.items()
            for n, t in group.items()
        },
        "weights": {
            n: t.float().numpy().tobytes() for n, t in weights(run / "model.safetensors").items()
        },
        "log": [{k: v for k, v in row.items() if k not in CLOCK} for row in rows],
    }


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load_model(path).networks.state_dict())


class StopAt:
    """A wish to stop that comes true after so many steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.request = StopRequest()
        get = Batches.get
        seen = 0

        def counted(batches: Batches, stage: str, step: int, size: int) -> Any:
            nonlocal seen
            seen += 1
            if seen == after:
                self.request.receive(signal.SIGTERM)
            return get(batches, stage, step, size)

        monkeypatch.setattr(Batches, "get", counted)


@pytest.fixture(scope="module")
def unbroken(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], dict[str, Any]]:
    kept: dict[str, Any] = {}

    def once() -> dict[str, Any]:
        if not kept:
            out = tmp_path_factory.mktemp("runs") / "unbroken"
            told = ends(settings(folder, out))
            assert isinstance(told[-1], events.Finished)
            kept.update(bytes_of(out))
        return kept

    return once


@pytest.mark.parametrize("stops", [(5,), (7, 1, 2), (1, 1, 1, 1)])
def test_a_stopped_and_resumed_run_ends_with_the_same_bytes(
    stops: tuple[int, ...], folder: Path, tmp_path: Path, unbroken: Callable[[], dict[str, Any]]
) -> None:
    for after in stops:
        with pytest.MonkeyPatch.context() as patch:
            stop = StopAt(patch, after).request
            with pytest.raises(Stopped) as stopped:
                ends(settings(folder, tmp_path / "run", resume=True, stop=stop))
            assert stopped.value.exit_code == 143
    ends(settings(folder, tmp_path / "run", resume=True))
    assert bytes_of(tmp_path / "run") == unbroken()


def test_sigusr1_saves_and_carries_on(folder: Path, tmp_path: Path) -> None:
    stop = StopRequest()
    saved_at: list[int] = []
    for event in train(settings(folder, tmp_path / "run", stop=stop)):
        if isinstance(event, events.Report) and event.row["step"] == 4:
            stop.receive(signal.SIGUSR1)
        if isinstance(event, events.Saved):
            saved_at.append(event.step)
    assert 4 in saved_at or 5 in saved_at
    assert saved_at[-1] == STEPS
    assert not stop.save_now


def test_every_stage_says_so_and_leaves_something_that_works(folder: Path, tmp_path: Path) -> None:
    told = ends(settings(folder, tmp_path / "run"))
    stages = [event.stage for event in told if isinstance(event, events.StageStarted)]
    assert stages == ["tokenizer", "contrastive", "flow", "distill", "adversarial"]
    loaded = checkpoint.load_model(tmp_path / "run" / "model.safetensors")
    assert loaded.config.resolution == 32
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    finished = told[-1]
    assert isinstance(finished, events.Finished)
    assert {"retrieval", "diversity"} <= set(finished.figures)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    keys = set().union(*rows)
    assert {
        "contrastive_loss",
        "flow_loss",
        "distill_loss",
        "perceptual_loss",
        "d_loss",
        "g_loss",
        "r1",
        "r2",
        "gap",
        "mismatch_gap",
        "penalty_ratio",
        "memory_mb",
        "eta_s",
    } <= keys


@pytest.mark.parametrize("off", ["contrastive", "flow", "distill", "adversarial"])
def test_a_stage_can_be_turned_off(off: str, folder: Path, tmp_path: Path) -> None:
    told = ends(settings(folder, tmp_path / "run", config={off: 0.0, "steps": 4}))
    assert off not in [event.stage for event in told if isinstance(event, events.StageStarted)]
    assert isinstance(told[-1], events.Finished)


def test_a_budget_of_time_is_kept(folder: Path, tmp_path: Path) -> None:
    told = ends(
        settings(folder, tmp_path / "run", config={"steps": 0, "time": 1.5, "report_every": 0.1})
    )
    finished = told[-1]
    assert isinstance(finished, events.Finished)
    assert 1.5 <= finished.seconds < 15


def test_an_existing_run_is_refused_and_force_starts_again(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends(settings(folder, run, config={"steps": 3}))
    (run / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="holds a run already"):
        ends(settings(folder, run, config={"steps": 3}))
    ends(settings(folder, run, force=True, config={"steps": 4}))
    state = checkpoint.load_state(run)
    assert state is not None
    assert state.step == 4
    assert (run / "mine.txt").read_text() == "keep"


def test_changed_data_and_settings_are_told(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends(settings(folder, run, config={"steps": 3}))
    with pytest.raises(UsageError, match=r"--lr was 0\.0009 and is 0\.0018 now") as caught:
        ends(settings(folder, run, resume=True, config={"steps": 3, **learning_rates(0.0018)}))
    assert caught.value.hint == "leave out --lr, or give another -o"
    (run / "data.json").unlink()
    (folder_of_twenty := tmp_path / "twenty").mkdir()
    for path in sorted(folder.iterdir())[:20]:
        (folder_of_twenty / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="it is not known how"):
        ends(settings(folder_of_twenty, run, resume=True, config={"steps": 3}))
    ends(
        settings(folder, run, resume=True, config={"steps": 3, "save_every": 7.0})
    )  # changes nothing that is learned


def test_a_finished_run_is_extended(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends(settings(folder, run, config={"steps": 4}))
    told = ends(settings(folder, run, resume=True, config={"steps": 4}))
    assert "the run is finished; to train longer: --resume with --steps 8" in texts(told)
    told = ends(settings(folder, run, resume=True, config={"steps": 7}))
    assert "the run is asked for 7 steps in all now: it goes on for 3 steps more" in texts(told)
    state = checkpoint.load_state(run)
    assert state is not None
    assert state.step == 7
    assert tomllib.loads((run / "config.toml").read_text())["steps"] == 7
    told = ends(settings(folder, run, resume=True, config={"steps": 2}))
    assert any("nothing is left to do" in text for text in texts(told))
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})


def test_a_run_of_a_time_is_extended(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends(settings(folder, run, config={"steps": 0, "time": 2.0}))
    first = checkpoint.load_state(run)
    assert first is not None
    longer = first.meta["position"]["seconds"] + 3.0
    told = ends(settings(folder, run, resume=True, config={"steps": 0, "time": longer}))
    last = checkpoint.load_state(run)
    assert last is not None
    assert last.step > first.step
    assert last.meta["position"]["seconds"] >= longer
    assert any(f"the run is asked for {longer:.0f} s in all now" in text for text in texts(told))


def test_new_pictures_are_told_and_used_and_keep_their_sides(folder: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(folder, data)
    ends(settings(data, run, config={"steps": 3, "val": 0.2}))
    before = {row[1]: row[2] for row in json.loads((run / "data.json").read_text())["pictures"]}
    assert set(before.values()) == {"train", "val"}
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)
        (data / f"new{k}.png").write_bytes(images.encode(pixels))
        (data / f"new{k}.txt").write_text(f"noise number {k}")
    (data / "00.png").unlink()
    told = ends(settings(data, run, resume=True, config={"steps": 5, "val": 0.2}))
    assert any(
        "6 pictures were added, 1 picture was removed; it goes on" in text for text in texts(told)
    )
    after = {row[1]: row[2] for row in json.loads((run / "data.json").read_text())["pictures"]}
    assert len(after) == len(before) + 5
    assert all(after[sha256] == side for sha256, side in before.items() if sha256 in after)
    assert sum(side == "train" for sha256, side in after.items() if sha256 not in before) >= 3
    records = read_records(checkpoint.read_info(run / "model.safetensors").metadata)
    ever = {sha256 for told in (before, after) for sha256, side in told.items() if side == "train"}
    for place in (data, folder):  # as it is now and as it was: what was trained on once is seen
        pictures = load(place, 32, cache=tmp_path / "cache")
        found = unseen(pictures, records)
        assert found is not None and found.any()
        assert not ever & {pictures.hashes[row] for row in np.flatnonzero(found)}
    told = ends(settings(data, run, resume=True, config={"steps": 6, "val": 0.2}))
    assert not any("since the run was started" in text for text in texts(told))
    assert read_records(checkpoint.read_info(run / "model.safetensors").metadata) == records
    again = {row[1]: row[2] for row in json.loads((run / "data.json").read_text())["pictures"]}
    assert again == after


def test_what_is_left_out_is_told(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    (data / "03.png").write_bytes(b"junk")
    (data / "05.txt").unlink()
    small = {"steps": 1, "contrastive": 0.0, "flow": 0.0}
    told = texts(ends(settings(data, tmp_path / "run", config=small)))
    assert any(text.startswith("left out: 1 image has no caption (05.png") for text in told)
    assert any(text.startswith("left out: 1 file cannot be read (03.png") for text in told)
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [problem["kind"] for problem in report["problems"]] == ["no-caption", "unreadable"]


@pytest.mark.parametrize("bad", ["data", "init"])
def test_a_run_that_never_began_leaves_no_folder(folder: Path, tmp_path: Path, bad: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run = tmp_path / "runs" / "deep" / "run"
    with pytest.raises(T2IError):
        if bad == "data":
            ends(settings(empty, run, config={"steps": 3}))
        else:
            ends(settings(folder, run, config={"steps": 3}, tokenizer=empty / "none.model"))
    assert not (tmp_path / "runs").exists()


def test_photographs_train_from_a_model_of_transparent_pictures(
    folder: Path, tmp_path: Path
) -> None:
    ends(settings(folder, tmp_path / "icons", config={"steps": 3}))
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 60, 3), np.uint8)
        (photos / f"{k}.jpg").write_bytes(images.encode(pixels, "jpg"))
        (photos / f"{k}.txt").write_text(f"noise number {k}")
    ends(
        settings(
            photos, tmp_path / "run", config={"steps": 3}, init=tmp_path / "icons/model.safetensors"
        )
    )
    info = checkpoint.read_info(tmp_path / "run" / "model.safetensors")
    assert info.config.image_channels == 4
    assert info.metadata["t2i.opaque"] == "1"
    clear = checkpoint.read_info(tmp_path / "icons" / "model.safetensors")
    assert clear.metadata["t2i.opaque"] == "0"


def test_what_a_run_was_given_is_a_fact_of_it(folder: Path, tmp_path: Path) -> None:
    """Weights to start from, a tokenizer and prompts are no settings, and change what is learned or logged."""
    run = tmp_path / "run"
    ends(settings(folder, run, config={"steps": 3}, prompts=["a red ball"]))
    before = bytes_of(run)
    resumed = {"resume": True, "config": {"steps": 3}}
    with pytest.raises(
        UsageError, match="the weights that it starts from were not given and are now"
    ):
        ends(settings(folder, run, init=run / "model.safetensors", **resumed))
    with pytest.raises(UsageError, match="the tokenizer was not given and is now"):
        ends(settings(folder, run, tokenizer=run / "tokenizer.model", **resumed))
    for prompts in (None, ["a blue ball"]):
        told = ends(settings(folder, run, prompts=prompts, **resumed))
        said = [event.text for event in told if isinstance(event, events.Message)]
        assert any(text.startswith("the prompts of the grids are others") for text in said)
    assert bytes_of(run) == before


def test_a_log_row_is_json_whatever_a_look_finds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = train_module._look

    def spoilt(run: Any) -> Any:
        yield from look(run)
        run.at.fresh["diversity"], run.at.fresh["nearest"] = math.nan, math.inf

    monkeypatch.setattr(train_module, "_look", spoilt)
    ends(settings(folder, tmp_path / "run", config={"steps": 4}))

    def refuse(word: str) -> float:
        raise AssertionError(word)

    rows = [
        json.loads(line, parse_constant=refuse)
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert any("retrieval" in row for row in rows)


def state_of(run: Path) -> str:
    return info(run).to_dict()["state"]


@pytest.mark.parametrize("seconds", [2.0, 3.0, 4.0])
def test_a_run_that_used_its_time_is_finished(folder: Path, tmp_path: Path, seconds: float) -> None:
    budget = {"time": seconds, "steps": 0}
    told = ends(settings(folder, tmp_path / "run", config=budget))
    assert isinstance(told[-1], events.Finished)
    assert state_of(tmp_path / "run") == "finished"
    again = ends(settings(folder, tmp_path / "run", config=budget, resume=True))
    assert not any(isinstance(event, events.Report) for event in again)  # nothing was left to do
    assert state_of(tmp_path / "run") == "finished"


def test_a_run_says_how_it_ended(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    wanted = settings(folder, run, stop=StopAt(monkeypatch, 5).request)
    states: list[str] = []
    with pytest.raises(Stopped):
        for event in train(wanted):
            if isinstance(event, events.StageStarted) and event.stage != "tokenizer":
                states.append(state_of(run))
    assert states[0] == "running"
    assert state_of(run) == "stopped"
    with monkeypatch.context() as patch, pytest.raises(OSError, match="lightning"):

        def struck(*_: Any) -> Any:
            raise OSError("lightning")

        patch.setattr(train_module.Learner, "step", struck)
        ends(settings(folder, run, resume=True))
    assert state_of(run) == "failed"
    assert "lightning" in str(info(run).facts["status"])
    with pytest.raises(UsageError):  # it did not begin, so nothing is told
        ends(settings(folder, run, resume=True, config={"seed": 3}))
    assert state_of(run) == "failed"
    ends(settings(folder, run, resume=True))
    assert state_of(run) == "finished"
    ends(settings(folder, run, force=True))
    assert state_of(run) == "finished"


def test_a_signal_while_pictures_are_decoded_ends_before_the_first_step(
    folder: Path, tmp_path: Path
) -> None:
    stop = StopRequest()
    stop.receive(signal.SIGTERM)
    with pytest.raises(Stopped, match="no step was made"):
        ends(settings(folder, tmp_path / "run", stop=stop, cache=tmp_path / "cache"))
    assert checkpoint.load_state(tmp_path / "run") is None


def test_a_model_holds_the_words_of_its_captions(folder: Path, tmp_path: Path) -> None:
    """And what the model that it starts from reads others as."""
    small = {"steps": 1, "contrastive": 0.0, "flow": 0.0}
    ends(settings(folder, tmp_path / "a", config=small))
    words = Words.load(tmp_path / "a" / "words.txt")
    given = tmp_path / "a" / "model.safetensors"
    loaded = checkpoint.load_model(given)
    assert loaded.words == words.to_bytes()
    assert words.read("a crimson ball, a scarlet ball") == "a red ball, a red ball"
    parts = {name: net.state_dict() for name, net in loaded.networks.named_children()}
    taught = Words.of(words.known, {**words.others, "orb": "ball", "settee": "sofa"}).to_bytes()
    checkpoint.save_model(given, parts, loaded.config, loaded.tokenizer, words=taught)
    ends(settings(folder, tmp_path / "b", init=given, config=small))
    later = Words.load(tmp_path / "b" / "words.txt")
    assert later.read("an orb, a settee") == "a ball, a settee"  # these captions have no sofa
    resumed = settings(folder, tmp_path / "b", init=given, config=small, resume=True)
    (tmp_path / "b" / "words.txt").write_text("a\nball\nglobe=ball\n")
    ends(resumed)  # a run that has ended is as it was
    assert checkpoint.load_model(tmp_path / "b" / "model.safetensors").words == later.to_bytes()


def test_init_starts_from_weights(folder: Path, tmp_path: Path) -> None:
    ends(settings(folder, tmp_path / "a", config={"steps": 6}))
    given = tmp_path / "a" / "model.safetensors"
    told = ends(
        settings(folder, tmp_path / "b", init=given, config={"steps": 2, "flow": 0.0, **FROZEN})
    )
    stages = [event.stage for event in told if isinstance(event, events.StageStarted)]
    assert stages == ["tokenizer", "contrastive", "adversarial"]
    a, b = (checkpoint.load_model(tmp_path / name / "model.safetensors") for name in "ab")
    assert a.tokenizer == b.tokenizer
    trained = b.networks.generator.state_dict()
    for name, tensor in a.networks.generator.state_dict().items():
        assert torch.allclose(tensor.float(), trained[name].float(), atol=1e-3)
    with pytest.raises(UsageError, match="asks for 64"):
        ends(settings(folder, tmp_path / "c", init=given, config={"resolution": 64}))


def test_a_larger_size_grows_out_of_the_weights_that_it_starts_from(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = {grid: 2 * width for grid, width in MICRO.channels.items()}
    monkeypatch.setitem(
        config.PRESETS, "small", dataclasses.replace(MICRO, channels=wider, text_depth=2)
    )
    ends(settings(folder, tmp_path / "a", config={"steps": 6}))
    given = tmp_path / "a" / "model.safetensors"
    more = {"steps": 1, **FROZEN, "contrastive": 0.0, "flow": 0.0}
    ends(settings(folder, tmp_path / "b", init=given, config={**more, "size": "small"}))
    a, b = (checkpoint.load_model(tmp_path / name / "model.safetensors") for name in "ab")
    assert (a.config.size, b.config.size) == ("tiny", "small")
    assert b.config.channels == tuple(wider.values())
    noise = torch.randn(2, 4, 32, 32)
    tokens, mask = Tokenizer(a.tokenizer).batch(["a red ball", "a blue bar"], 16)
    pictures = []
    with torch.no_grad():
        for model in (a, b):
            encoder, generator = model.networks.text_encoder, model.networks.generator
            text = encoder(torch.from_numpy(tokens), torch.from_numpy(mask))
            pictures.append(one_step(generator, noise, text))
    torch.testing.assert_close(pictures[0], pictures[1], rtol=0.02, atol=0.02)
    # never into a smaller one: the weights' own size is kept
    ends(settings(folder, tmp_path / "c", init=tmp_path / "b" / "model.safetensors", config=more))
    assert checkpoint.load_model(tmp_path / "c" / "model.safetensors").config.size == "small"
    monkeypatch.setitem(config.PRESETS, "base", dataclasses.replace(MICRO, text_dim=32))
    with pytest.raises(UsageError, match="cannot grow into base"):
        ends(settings(folder, tmp_path / "d", init=given, config={**more, "size": "base"}))


def test_a_flow_that_a_run_starts_from_is_distilled(folder: Path, tmp_path: Path) -> None:
    ends(settings(folder, tmp_path / "a", config={"steps": 4, "distill": 0.0, "adversarial": 0.0}))
    given = tmp_path / "a" / "model.safetensors"
    told = ends(
        settings(
            folder, tmp_path / "b", init=given, config={"steps": 4, "contrastive": 0.0, "flow": 0.0}
        )
    )
    stages = [event.stage for event in told if isinstance(event, events.StageStarted)]
    assert stages == ["tokenizer", "distill", "adversarial"]


@pytest.mark.parametrize("flow", [0.0, 1.0])
def test_a_game_is_held_to_its_start_only_where_that_can_draw(
    folder: Path, tmp_path: Path, flow: float
) -> None:
    """Weights that a contrastive stage ended with bring a generator that knows nothing."""
    learned = {"contrastive": 1.0, "flow": flow, "distill": 0.0, "adversarial": 0.0}
    ends(settings(folder, tmp_path / "a", config={"steps": 4, **learned}))
    given = tmp_path / "a" / "model.safetensors"
    game = {
        "steps": 4,
        "contrastive": 0.0,
        "flow": 0.0,
        "distill": 0.0,
        "discriminator_head_start": 0.0,
    }
    ends(settings(folder, tmp_path / "b", init=given, config=game))
    rows = [json.loads(row) for row in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    terms = {name for row in rows for name in row} & {"anchor_loss", "pattern_loss", "edge_loss"}
    assert terms == ({"anchor_loss", "pattern_loss", "edge_loss"} if flow else set())


def test_a_model_past_its_flow_goes_on_learning_from_one(folder: Path, tmp_path: Path) -> None:
    flow_only = {"steps": 4, "distill": 0.0, "adversarial": 0.0}
    ends(settings(folder, tmp_path / "a", config=flow_only))
    flow = tmp_path / "a" / "model.safetensors"
    rest = {"steps": 4, "contrastive": 0.0, "flow": 0.0}
    ends(settings(folder, tmp_path / "b", init=flow, config=rest))
    given = tmp_path / "b" / "model.safetensors"
    further = {**rest, "distill": 1.0, "adversarial": 0.0}
    run = settings(folder, tmp_path / "c", init=given, distill_from=flow, config=further)
    told = ends(run)
    stages = [event.stage for event in told if isinstance(event, events.StageStarted)]
    assert stages == ["tokenizer", "distill"]
    state = checkpoint.load_state(tmp_path / "c")
    assert state is not None
    begun = checkpoint.load_model(flow).networks.generator.state_dict()
    for name, tensor in begun.items():  # what draws the pairs is the flow, kept for a resume
        assert torch.equal(state.files["anchor"][name], tensor)


def test_a_flow_to_distill_has_to_be_one_that_fits(folder: Path, tmp_path: Path) -> None:
    flow_only = {"steps": 2, "distill": 0.0, "adversarial": 0.0}
    ends(settings(folder, tmp_path / "a", config=flow_only))
    ends(settings(folder, tmp_path / "other", config={**flow_only, "seed": 1}))
    flow, other = (tmp_path / name / "model.safetensors" for name in ("a", "other"))
    rest = {"steps": 2, "contrastive": 0.0, "flow": 0.0}
    ends(settings(folder, tmp_path / "b", init=flow, config=rest))
    given = tmp_path / "b" / "model.safetensors"
    for told, more in {
        "not those of a flow": {"init": flow, "distill_from": given, "config": rest},
        "needs --init": {"distill_from": flow, "config": rest},
        "neither the text encoder": {
            "init": given, "distill_from": flow, "config": {**rest, "contrastive": 0.1}
        },
        "distills nothing": {"init": given, "distill_from": flow, "config": {**rest, "distill": 0.0}},
        "no flow to distill": {"init": given, "config": {**rest, "distill": 1.0, "adversarial": 0.0}},
        "not that of --init": {"init": given, "distill_from": other, "config": rest},
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=told):
            ends(settings(folder, tmp_path / "c", **more))


@pytest.mark.parametrize("lost", ["nothing", "one damaged", "all"])
def test_a_run_stopped_while_it_distills_has_its_pairs_again(
    folder: Path, tmp_path: Path, lost: str
) -> None:
    config = {"steps": 8, "contrastive": 0.0, "flow": 0.25, "distill": 0.75, "adversarial": 0.0}
    ends(settings(folder, tmp_path / "whole", config=config))
    assert not (tmp_path / "whole" / "pairs").exists()  # a run that has ended needs them no more
    with pytest.MonkeyPatch.context() as patch:
        stop = StopAt(patch, 6).request
        with pytest.raises(Stopped):
            ends(settings(folder, tmp_path / "run", stop=stop, config=config))
    first, *others = sorted((tmp_path / "run" / "pairs").iterdir())
    assert len(others) == 2  # of three steps, the stage's first half
    if lost == "one damaged":
        others[0].write_bytes(others[0].read_bytes()[:-9])
    elif lost == "all":
        shutil.rmtree(first.parent)
    told = ends(settings(folder, tmp_path / "run", resume=True, config=config))
    again = [
        event.text
        for event in told
        if isinstance(event, events.Message) and "pictures again" in event.text
    ]
    pictures = {"nothing": [], "one damaged": [8], "all": [12]}[lost]
    assert again == [f"drawing up to {n} pictures again to learn from" for n in pictures]
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "whole")


def test_a_run_that_has_ended_draws_no_pairs_again(folder: Path, tmp_path: Path) -> None:
    config = {"steps": 4, "contrastive": 0.0, "flow": 0.25, "distill": 0.75, "adversarial": 0.0}
    ends(settings(folder, tmp_path / "run", config=config))
    before = bytes_of(tmp_path / "run")
    told = ends(settings(folder, tmp_path / "run", resume=True, config=config))
    assert not any("again" in event.text for event in told if isinstance(event, events.Message))
    assert bytes_of(tmp_path / "run") == before


def poison(monkeypatch: pytest.MonkeyPatch, steps: Callable[[int], bool]) -> None:
    """Put a NaN into the pictures of some calls."""
    get = Batches.get
    calls = 0

    def poisoned(batches: Batches, stage: str, step: int, size: int) -> Any:
        nonlocal calls
        calls += 1
        batch = get(batches, stage, step, size)
        if steps(calls):
            batch.images[0, 0, 0, 0] = math.nan
        return batch

    monkeypatch.setattr(Batches, "get", poisoned)


def test_one_bad_step_is_skipped_and_counted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda call: call == 6)
    ends(settings(folder, tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["skipped"] == 1
    assert all(
        bool(tensor.isfinite().all())
        for tensor in weights(tmp_path / "run" / "model.safetensors").values()
    )


def test_some_bad_steps_in_a_row_go_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda call: 5 <= call < 8)
    told = ends(settings(folder, tmp_path / "run"))
    assert any(isinstance(event, events.Message) and "back to step" in event.text for event in told)
    assert isinstance(told[-1], events.Finished)


def test_numbers_that_stay_bad_end_the_run_with_good_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda call: call >= 5)
    with pytest.raises(TrainingError, match="not finite"):
        ends(settings(folder, tmp_path / "run"))
    state = checkpoint.load_state(tmp_path / "run")
    assert state is not None
    assert all(
        bool(t.isfinite().all())
        for group in state.files.values()
        for t in group.values()
        if t.is_floating_point()
    )


def test_plan_writes_nothing(folder: Path, tmp_path: Path) -> None:
    told = plan(settings(folder, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert told["pictures"] + told["held_out"] == 16
    assert set(told["stages"]) == {"contrastive", "flow", "distill", "adversarial"}
    assert told["seconds"] == sum(stage["seconds"] for stage in told["stages"].values())
    for name, stage in told["stages"].items():
        alone = stage["images"] / stage["images_per_second"]
        assert stage["images"] > 0
        # distill also draws what it learns from
        assert (
            stage["seconds"] > 1.05 * alone
            if name == "distill"
            else stage["seconds"] == pytest.approx(alone)
        )


def test_a_device_that_is_not_there() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="no such device"):
        choose_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="CUDA"):
            choose_device("cuda")
