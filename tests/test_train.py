"""`t2i train` from pictures to a model: its stages, what it leaves, what it starts from, what it refuses."""

from __future__ import annotations

import json
import math
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from t2i_cli import checkpoint
from t2i_cli.config import TrainConfig
from t2i_cli.errors import Stopped, T2IError, UsageError
from t2i_cli.info import info
from t2i_cli.runtime import graphs
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.train import choose_device, plan, train
from t2i_cli.training import events, loop
from t2i_cli.words import Words
from tests.toy_runs import (
    STEPS,
    all_of,
    before_each_step,
    differences,
    ends,
    rows_of,
    said,
    settings,
    stages_of,
    stop_in_step,
    toy_folder,
)

pytestmark = pytest.mark.usefixtures("small_runs")

FLOW = {"contrastive": 0.0, "autoencoder": 0.0}  # what a run from trained weights does


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toys with a table that tells each one's style: bold or light, and of two none."""
    return toy_folder(tmp_path_factory.mktemp("styled") / "data", styled=True)


@pytest.fixture(scope="module")
def finished(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[events.Event]]:
    """A run to its end, and what it told. Read only."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return run, ends(settings(data, run))


@pytest.fixture
def given(finished: tuple[Path, list[events.Event]]) -> Path:
    """Trained weights to start from."""
    return finished[0] / "model.safetensors"


def generator_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load_model(path).networks.generator.state_dict())


# -- a run ------------------------------------------------------------------------------------------


def test_a_run_goes_through_its_stages_and_tells_them(
    finished: tuple[Path, list[events.Event]],
) -> None:
    run, told = finished
    assert stages_of(told) == ["tokenizer", "contrastive", "autoencoder", "flow"]
    numbered = [(e.index, e.stages) for e in told if isinstance(e, events.StageStarted)]
    assert numbered == [(1, 4), (2, 4), (3, 4), (4, 4)]
    last = told[-1]
    assert isinstance(last, events.Finished)
    assert (last.path, last.model, last.steps) == (run, run / "model.safetensors", STEPS)
    assert {"retrieval", "retrieval_real", "diversity", "nearest"} <= set(last.figures)
    assert last.seconds > 0
    assert [event.step for event in told if isinstance(event, events.Saved)] == [0, 2, 6, STEPS]


def test_a_run_leaves_its_folder(finished: tuple[Path, list[events.Event]], data: Path) -> None:
    run, _ = finished
    assert sorted(path.name for path in run.iterdir()) == [
        "best.safetensors", "config.toml", "data.json", "log.jsonl", "model.safetensors", "samples",
        "state", "status.json", "tokenizer.model", "words.txt",
    ]  # fmt: skip
    kept = TrainConfig.from_dict(tomllib.loads((run / "config.toml").read_text()))
    assert kept == settings(data, run).config
    assert json.loads((run / "data.json").read_text())["digest"]
    grids = sorted(path.name for path in (run / "samples").iterdir())
    # an autoencoder is shown by pictures beside its own, a contrastive stage has nothing to show
    assert grids == ["00000003.png", "00000006.png", "00000009.png", "00000012.png"]
    for name in grids:
        with Image.open(run / "samples" / name) as picture:
            picture.load()
            assert picture.width >= 4 * 32
    assert checkpoint.read_status(run) == {"status": "finished", "why": ""}
    assert Tokenizer.load(run / "tokenizer.model").vocab_size <= 300


def test_a_run_logs_what_each_stage_found(finished: tuple[Path, list[events.Event]]) -> None:
    rows = rows_of(finished[0])
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["stage"] for row in rows] == ["contrastive"] * 2 + ["autoencoder"] * 4 + [
        "flow"
    ] * 6
    assert [row["images"] for row in rows][-1] == 2 * 8 + 10 * 4
    assert rows[-1]["progress"] == 1.0
    keys = {
        stage: set().union(*(row for row in rows if row["stage"] == stage))
        for stage in ("contrastive", "autoencoder", "flow")
    }
    assert {"contrastive_loss", "contrastive_chance", "logit_scale"} <= keys["contrastive"]
    assert {"l1", "perceptual_loss", "d_loss", "reconstruction_l1"} <= keys["autoencoder"]
    assert {"flow_loss", "grad_norm", "retrieval", "diversity", "nearest"} <= keys["flow"]
    whole = [json.loads(row) for row in (finished[0] / "log.jsonl").read_text().splitlines()]
    assert all({"images_per_second", "memory_mb", "eta_s", "seconds"} <= set(row) for row in whole)
    assert whole[-1]["eta_s"] == 0


def test_a_run_leaves_a_model_that_draws_from_the_pictures(
    finished: tuple[Path, list[events.Event]], data: Path
) -> None:
    run, _ = finished
    model = checkpoint.load_model(run / "model.safetensors")
    assert (model.config.resolution, model.config.opaque, model.config.attributes) == (
        32,
        False,
        (),
    )
    state = checkpoint.load_state(run)
    assert state is not None
    assert len(model.references) == 15  # one is held out
    told = model.info.metadata
    assert (told["t2i.stage"], told["t2i.step"], told["t2i.images"]) == ("flow", "12", "56")
    assert 0 < float(told["t2i.reconstruction_l1"]) < 2
    (split,) = json.loads(told["t2i.splits"])
    assert split["data"] == told["t2i.data"]
    config = TrainConfig.from_dict(json.loads(told["t2i.train_config"]))
    assert config == settings(data, run).config
    best = checkpoint.load_model(run / "best.safetensors")
    assert best.info.metadata["t2i.stage"] == "flow"


@pytest.mark.parametrize("off", ["contrastive", "autoencoder", "flow"])
def test_a_stage_can_be_turned_off(off: str, data: Path, tmp_path: Path) -> None:
    told = ends(settings(data, tmp_path / "run", config={off: 0.0, "steps": 4}))
    stages = ["tokenizer", "contrastive", "autoencoder", "flow"]
    stages.remove(off)
    assert stages_of(told) == stages
    model = checkpoint.load_model(tmp_path / "run" / "model.safetensors")
    assert len(model.references) == (0 if off == "flow" else 15)


def test_the_founding_form(data: Path, tmp_path: Path) -> None:
    told = ends(settings(data, tmp_path / "run", config={"objective": "gan", "steps": 8}))
    assert stages_of(told) == ["tokenizer", "contrastive", "autoencoder", "gan"]
    keys = set().union(*(row for row in rows_of(tmp_path / "run") if row["stage"] == "gan"))
    assert {"d_loss", "g_loss", "r1", "r2", "gap", "mismatch_gap", "penalty_ratio"} <= keys
    model = checkpoint.load_model(tmp_path / "run" / "model.safetensors")
    assert model.info.metadata["t2i.stage"] == "gan"


def test_a_budget_of_time_is_kept(data: Path, tmp_path: Path) -> None:
    budget = {"steps": 0, "time": 1.5, "report_every": 0.1}
    told = ends(settings(data, tmp_path / "run", config=budget))
    last = told[-1]
    assert isinstance(last, events.Finished)
    assert 1.5 <= last.seconds < 60
    assert state_of(tmp_path / "run") == "finished"
    again = ends(settings(data, tmp_path / "run", config=budget, resume=True))
    assert not any(isinstance(event, events.Report) for event in again)  # nothing was left to do
    assert state_of(tmp_path / "run") == "finished"


def test_the_graph_for_sampling_is_made_before_the_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a run ends, `t2i sample` finds it; where it cannot be made the run goes on."""
    made: list[Any] = []
    steps: list[int] = []

    def make(config: Any, announce: Any = None) -> bytes:
        assert steps == []
        made.append(config)
        raise graphs.NoGraphError("no onnx")

    monkeypatch.setattr(graphs, "is_made", lambda _: False)
    monkeypatch.setattr(graphs, "bundle_for", make)
    before_each_step(monkeypatch, lambda _, count: steps.append(count))
    told = ends(settings(data, tmp_path / "run", config={"steps": 3}))
    assert any("graph for fast sampling" in text for text in said(told))
    (config,) = made
    assert config == checkpoint.read_info(tmp_path / "run" / "model.safetensors").config
    assert steps == [1, 2, 3]


# -- the folder of a run ----------------------------------------------------------------------------


def test_an_existing_run_is_refused_and_force_starts_again(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends(settings(data, run, config={"steps": 3}))
    (run / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="holds a run already") as error:
        ends(settings(data, run, config={"steps": 3}))
    assert "--resume" in error.value.hint
    ends(settings(data, run, force=True, config={"steps": 4}))
    assert checkpoint.saved_step(run) == 4
    assert [row["step"] for row in rows_of(run)] == [1, 2, 3, 4]
    assert (run / "mine.txt").read_text() == "keep"
    assert checkpoint.read_status(run)["status"] == "finished"


def test_a_run_that_somebody_trains_is_left_alone(
    finished: tuple[Path, list[events.Event]], data: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished[0], tmp_path / "run"))
    with checkpoint.RunLock(run):
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(T2IError, match="already being trained by") as error:
                ends(settings(data, run, **how))
            assert error.value.exit_code == 1
    assert differences(all_of(run), all_of(finished[0])) == []


def test_a_file_in_the_place_of_the_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        ends(settings(data, tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


def state_of(run: Path) -> str:
    return info(run).to_dict()["state"]


def test_a_run_says_how_it_ended(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    states: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        wish = stop_in_step(patch, 3)
        with pytest.raises(Stopped):
            for event in train(settings(data, run, stop=wish)):
                if isinstance(event, events.StageStarted) and event.stage != "tokenizer":
                    states.append(state_of(run))
    assert states[0] == "running"
    assert state_of(run) == "stopped"

    def struck(*_: Any) -> None:
        raise OSError("lightning")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="lightning"):
        before_each_step(patch, struck)
        ends(settings(data, run, resume=True))
    assert state_of(run) == "failed"
    assert "lightning" in str(info(run).facts["status"])
    with pytest.raises(UsageError):  # it did not begin, so nothing is told
        ends(settings(data, run, resume=True, config={"seed": 3}))
    assert state_of(run) == "failed"
    ends(settings(data, run, resume=True))
    assert state_of(run) == "finished"


def test_a_log_row_is_json_whatever_a_preview_finds(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = loop.preview

    def spoilt(run: Any) -> Iterator[events.Event]:
        yield from look(run)
        run.at.fresh["diversity"], run.at.fresh["nearest"] = math.nan, math.inf

    monkeypatch.setattr(loop, "preview", spoilt)
    ends(settings(data, tmp_path / "run", config={"steps": 4}))

    def refuse(word: str) -> float:
        raise AssertionError(word)

    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert any("retrieval" in row for row in rows)
    assert not any("diversity" in row for row in rows)


# -- what it learns from ----------------------------------------------------------------------------


def test_pictures_without_transparency_make_a_model_without(tmp_path: Path) -> None:
    data = toy_folder(tmp_path / "data", opaque=True)
    told = ends(settings(data, tmp_path / "run", config={"steps": 3}))
    assert checkpoint.read_info(tmp_path / "run" / "model.safetensors").config.opaque
    assert any("32 px RGB," in text for text in said(told))


def test_a_style_is_a_condition_where_there_is_one(styled: Path, tmp_path: Path) -> None:
    told = ends(settings(styled, tmp_path / "run", config={"steps": 4}, defaults=("style=light",)))
    model = checkpoint.load_model(tmp_path / "run" / "model.safetensors")
    (style,) = model.config.attributes
    assert (style.name, style.values, style.default) == ("style", ("bold", "light"), "light")
    assert set(model.references.attributes[:, 0].tolist()) == {0, 1, 2}  # 2: it has none
    assert any("style: 2 values, light by default" in text for text in said(told))
    ends(settings(styled, tmp_path / "none", config={"steps": 4}, attributes=()))
    assert checkpoint.read_info(tmp_path / "none" / "model.safetensors").config.attributes == ()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"attributes": ("colour",)}, "--attributes colour: no values in the data"),
        ({"defaults": ("style=thin",)}, "--default style=thin: no such value"),
        ({"defaults": ("colour=red",)}, "--default colour: not a condition of this run"),
        ({"config": {"attribute_weights": "style=thin:2"}}, "expected VALUE:WEIGHT of style"),
    ],
)
def test_conditions_that_are_not_there_are_refused_before_the_first_step(
    asked: dict[str, Any], told: str, styled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    before_each_step(monkeypatch, lambda _, count: steps.append(count))
    with pytest.raises(UsageError, match=told) as error:
        ends(settings(styled, tmp_path / "run", **asked))
    assert error.value.hint
    assert steps == []
    assert checkpoint.saved_step(tmp_path / "run") is None


def test_a_model_holds_the_words_of_its_captions(data: Path, tmp_path: Path) -> None:
    """And what the model that it starts from reads others as."""
    config = {"steps": 1, **FLOW}
    ends(settings(data, tmp_path / "a", config=config))
    words = Words.load(tmp_path / "a" / "words.txt")
    given = tmp_path / "a" / "model.safetensors"
    loaded = checkpoint.load_model(given)
    assert loaded.words == words.to_bytes()
    assert words.read("a crimson ball, a scarlet ball") == "a red ball, a red ball"
    parts = {name: net.state_dict() for name, net in loaded.networks.named_children()}
    taught = Words.of(words.known, {**words.others, "orb": "ball", "settee": "sofa"}).to_bytes()
    checkpoint.save_model(given, parts, loaded.config, loaded.tokenizer, words=taught)
    ends(settings(data, tmp_path / "b", init=given, config=config))
    later = Words.load(tmp_path / "b" / "words.txt")
    assert later.read("an orb, a settee") == "a ball, a settee"  # these captions have no sofa
    (tmp_path / "b" / "words.txt").write_text("a\nball\nglobe=ball\n")
    ends(settings(data, tmp_path / "b", init=given, config=config, resume=True))
    assert checkpoint.load_model(tmp_path / "b" / "model.safetensors").words == later.to_bytes()


# -- what it starts from ----------------------------------------------------------------------------


def test_init_starts_from_weights(data: Path, tmp_path: Path, given: Path) -> None:
    """Before the first step the model is the given one, and draws from the new pictures."""
    run = tmp_path / "b"
    frozen = {"steps": 2, "flow_lr": 1e-9, **FLOW}
    told = ends(settings(data, run, init=given, config=frozen))
    assert stages_of(told) == ["tokenizer", "flow"]
    assert any("draws from your pictures already" in text for text in said(told))
    a, b = checkpoint.load_model(given), checkpoint.load_model(run / "model.safetensors")
    assert (a.tokenizer, a.config) == (b.tokenizer, b.config)
    assert len(b.references) == 15
    trained = b.networks.state_dict()
    for name, tensor in a.networks.state_dict().items():
        if "generator.text_" not in name:  # how texts are whitened hangs on the pictures
            torch.testing.assert_close(tensor, trained[name], rtol=0.01, atol=1e-4)
    with pytest.raises(UsageError, match="trained at 32 px, this run asks for 64"):
        ends(settings(data, tmp_path / "c", init=given, config={"resolution": 64}))
    with pytest.raises(UsageError, match="--init brings its own tokenizer"):
        tokenizer = run / "tokenizer.model"
        ends(settings(data, tmp_path / "d", init=given, tokenizer=tokenizer))


def test_what_was_learned_of_a_value_stays_with_its_name(
    styled: Path, data: Path, tmp_path: Path
) -> None:
    """Bold is another number in other data; a new value begins as no value does."""
    ends(settings(styled, tmp_path / "a", config={"steps": 8, **FLOW}))
    other = Path(shutil.copytree(styled, tmp_path / "other"))
    table = (other / "metadata.jsonl").read_text()
    (other / "metadata.jsonl").write_text(table.replace('"light"', '"airy"'))
    given = tmp_path / "a" / "model.safetensors"
    frozen = {"steps": 1, "flow_lr": 1e-9, **FLOW}
    ends(settings(other, tmp_path / "b", init=given, config=frozen))
    (style,) = checkpoint.read_info(tmp_path / "b" / "model.safetensors").config.attributes
    assert style.values == ("airy", "bold")
    before, after = generator_of(given), generator_of(tmp_path / "b" / "model.safetensors")
    for kind in ("attributes", "reference_attributes"):
        bold, _, none = before[f"{kind}.0.weight"]
        assert not torch.equal(bold, none)  # something was learned
        expected = torch.stack([none, bold, none])
        torch.testing.assert_close(after[f"{kind}.0.weight"], expected, rtol=0.01, atol=1e-4)


def test_a_decoder_that_blurs_the_new_pictures_is_tuned(
    data: Path, tmp_path: Path, given: Path
) -> None:
    """Its encoder stays: the generator knows its latents."""
    loaded = checkpoint.load_model(given)
    parts = {name: net.state_dict() for name, net in loaded.networks.named_children()}

    def told_of(error: str, name: str, **config: Any) -> list[events.Event]:
        extra = {"t2i.reconstruction_l1": error}
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save_model(path, parts, loaded.config, loaded.tokenizer, extra=extra)
        more = {"steps": 4, "contrastive": 0.0, "autoencoder": 0.0, **config}
        return ends(settings(data, tmp_path / name, init=path, config=more))

    told = told_of("0.0001", "blurred")
    assert stages_of(told) == ["tokenizer", "autoencoder", "flow"]
    assert any("goes into tuning it" in text for text in said(told))
    after = checkpoint.load_model(tmp_path / "blurred" / "model.safetensors").networks
    for name, value in loaded.networks.encoder.state_dict().items():
        assert torch.equal(value, after.encoder.state_dict()[name]), name
    # a budget in steps gives it one of four
    assert [row["stage"] for row in rows_of(tmp_path / "blurred")] == ["autoencoder"] + ["flow"] * 3
    assert stages_of(told_of("9.0", "sharp")) == ["tokenizer", "flow"]
    for name, error in {"unknown": "", "odd": "many", "nothing": "nan"}.items():
        assert stages_of(told_of(error, name)) == ["tokenizer", "flow"]


def test_a_run_that_tunes_its_decoder_goes_on_with_what_it_was_asked_for(
    data: Path, tmp_path: Path, given: Path
) -> None:
    loaded = checkpoint.load_model(given)
    parts = {name: net.state_dict() for name, net in loaded.networks.named_children()}
    path = tmp_path / "blurred.safetensors"
    extra = {"t2i.reconstruction_l1": "0.0001"}
    checkpoint.save_model(path, parts, loaded.config, loaded.tokenizer, extra=extra)
    asked = {"init": path, "config": {"steps": 8, **FLOW}}
    ends(settings(data, tmp_path / "whole", **asked))
    for after in (1, 3):  # in the decoder's stage, and in the generator's
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            wish = stop_in_step(patch, after)
            ends(settings(data, tmp_path / "run", resume=True, stop=wish, **asked))
    ends(settings(data, tmp_path / "run", resume=True, **asked))
    assert differences(all_of(tmp_path / "run"), all_of(tmp_path / "whole")) == []


# -- a plan, and a device ---------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["flow", "gan"])
def test_a_plan_writes_nothing(objective: str, data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    asked = {"objective": objective}
    told = plan(settings(data, tmp_path / "run", config=asked, cache=cache))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]
    assert len(list((cache / "data").iterdir())) == 1  # the pictures: nothing was encoded
    assert (told["pictures"], told["held_out"]) == (15, 1)
    assert set(told["stages"]) == {"contrastive", "autoencoder", objective}
    assert told["seconds"] == sum(stage["seconds"] for stage in told["stages"].values())
    images = {name: stage["images"] for name, stage in told["stages"].items()}
    assert images == {"contrastive": 16, "autoencoder": 16, objective: 24}
    for stage in told["stages"].values():
        alone = stage["images"] / stage["images_per_second"]
        assert stage["seconds"] == pytest.approx(alone)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="no such device"):
        choose_device("toaster")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="CUDA"):
        choose_device("cuda")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: not enough")]
)
def test_too_little_memory_is_told_with_what_to_type(
    error: Exception, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise error

    before_each_step(monkeypatch, full)
    with pytest.raises(T2IError, match="out of memory on cpu") as told:
        ends(settings(data, tmp_path / "run"))
    assert told.value.hint == "try --batch-size 2 or a smaller --size"
    assert checkpoint.read_status(tmp_path / "run")["status"] == "failed"
