"""A run goes on where it stood, to the last bit, in every stage; numbers that are not finite never reach it."""

from __future__ import annotations

import json
import math
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from t2i_cli import checkpoint
from t2i_cli.errors import Stopped, TrainingError, UsageError
from t2i_cli.signals import StopRequest
from t2i_cli.training import events, latents, losses
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
)

pytestmark = pytest.mark.usefixtures("small_runs")

GAN = {"objective": "gan", "steps": 8}  # one step of contrastive, three of autoencoder, four of gan


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed. Read only."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    assert isinstance(ends(settings(data, run))[-1], events.Finished)
    return run


def stopped(data: Path, run: Path, after: int, **more: Any) -> None:
    """Go on with a run, or begin it, and stop it in its so-manieth step from here."""
    with pytest.MonkeyPatch.context() as patch:
        wish = stop_in_step(patch, after)
        with pytest.raises(Stopped) as stop:
            ends(settings(data, run, resume=True, stop=wish, **more))
    assert stop.value.exit_code == 143


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param((1,), id="contrastive"),
        pytest.param((4,), id="autoencoder"),
        pytest.param((9,), id="flow"),
        pytest.param((2, 4, 6), id="where stages end"),
        pytest.param((1, 1, 1, 1), id="again and again"),
    ],
)
def test_a_stopped_and_resumed_run_ends_with_the_same_bytes(
    stops: tuple[int, ...], data: Path, tmp_path: Path, unbroken: Path
) -> None:
    for after in stops:
        stopped(data, tmp_path / "run", after)
    ends(settings(data, tmp_path / "run", resume=True))
    assert differences(all_of(tmp_path / "run"), all_of(unbroken)) == []


def test_a_run_of_the_founding_form_resumes_to_the_bit(data: Path, tmp_path: Path) -> None:
    ends(settings(data, tmp_path / "whole", config=GAN))
    stopped(data, tmp_path / "run", 6, config=GAN)
    ends(settings(data, tmp_path / "run", config=GAN, resume=True))
    assert differences(all_of(tmp_path / "run"), all_of(tmp_path / "whole")) == []


def test_a_run_from_trained_weights_goes_on_without_them(
    data: Path, tmp_path: Path, unbroken: Path
) -> None:
    """Such a run tunes the decoder alone: a resumed one knows that, and what its weights come of."""
    config = {"steps": 6, "contrastive": 0.0, "autoencoder": 0.5, "flow": 0.5, "seed": 3}
    given = shutil.copy(unbroken / "model.safetensors", tmp_path / "given.safetensors")
    ends(settings(data, tmp_path / "whole", config=config, init=Path(given)))
    begun, ended = (
        checkpoint.load_model(path).networks.encoder.state_dict()
        for path in (given, tmp_path / "whole" / "model.safetensors")
    )
    assert all(torch.equal(value, ended[name]) for name, value in begun.items())
    told = checkpoint.read_info(tmp_path / "whole" / "model.safetensors").metadata["t2i.splits"]
    assert len(json.loads(told)) == 2  # its own split, and that of what it started from
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        wish = stop_in_step(patch, 2)
        ends(settings(data, tmp_path / "run", config=config, init=Path(given), stop=wish))
    Path(given).unlink()
    stopped(data, tmp_path / "run", 2, config=config)
    ends(settings(data, tmp_path / "run", config=config, resume=True))
    assert differences(all_of(tmp_path / "run"), all_of(tmp_path / "whole")) == []
    other = {"init": tmp_path / "run" / "model.safetensors"}
    # it still knows which ones they were
    with pytest.raises(UsageError, match="the weights that it starts from are others now"):
        ends(settings(data, tmp_path / "run", config=config, resume=True, **other))


def test_a_finished_run_stays_as_it_is(data: Path, tmp_path: Path, unbroken: Path) -> None:
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    told = ends(settings(data, run, resume=True))
    assert not any(isinstance(event, events.Report | events.Saved) for event in told)
    assert isinstance(told[-1], events.Finished)
    assert told[-1].steps == STEPS
    assert differences(all_of(run), all_of(unbroken)) == []


def test_sigusr1_saves_and_carries_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = stop_in_step(monkeypatch, 4, 10)
    told = ends(settings(data, tmp_path / "run", stop=wish))
    saves = [event.step for event in told if isinstance(event, events.Saved)]
    assert saves == [0, 2, 4, 6, STEPS]  # where stages begin, where it was asked for, at the end
    assert not wish.save_now


def test_a_signal_while_pictures_are_decoded_ends_before_the_first_step(
    data: Path, tmp_path: Path
) -> None:
    wish = StopRequest(signum=15)
    with pytest.raises(Stopped, match="no step was made"):
        ends(settings(data, tmp_path / "run", stop=wish, cache=tmp_path / "cache"))
    assert checkpoint.load_state(tmp_path / "run") is None


@pytest.mark.parametrize("work", ["encoder", "text_encoder"])
def test_a_signal_while_latents_are_made_ends_the_run_which_goes_on(
    work: str, data: Path, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half made stays in the cache, and the resumed run ends with the same bytes."""
    wish, cache = StopRequest(), tmp_path / "cache"
    monkeypatch.setattr(latents, "BATCH", 8)
    name = {"encoder": "_fill", "text_encoder": "_read_texts"}[work]
    whole = getattr(latents, name)

    def disturbed(*arguments: Any) -> Any:
        wish.receive(15)
        return whole(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="go on with --resume"):
        patch.setattr(latents, name, disturbed)
        ends(settings(data, tmp_path / "run", stop=wish, cache=cache))
    assert checkpoint.saved_step(tmp_path / "run") == 2  # where the autoencoder's stage began
    assert checkpoint.read_status(tmp_path / "run")["status"] == "stopped"
    assert not list((cache / "data").glob("building-*"))
    ends(settings(data, tmp_path / "run", resume=True, cache=cache))
    assert differences(all_of(tmp_path / "run"), all_of(unbroken)) == []


def test_a_cache_that_is_gone_or_damaged_is_made_again(
    data: Path, tmp_path: Path, unbroken: Path
) -> None:
    cache = tmp_path / "cache"
    stopped(data, tmp_path / "run", 8, cache=cache)
    for file in cache.rglob("pixels.bin"):
        file.write_bytes(bytes(file.stat().st_size))
    stopped(data, tmp_path / "run", 1, cache=cache)
    shutil.rmtree(cache)
    ends(settings(data, tmp_path / "run", resume=True, cache=cache))
    assert differences(all_of(tmp_path / "run"), all_of(unbroken)) == []


# -- what may not change ----------------------------------------------------------------------------


def test_changed_settings_are_refused_and_changed_data_are_told(
    data: Path, tmp_path: Path, unbroken: Path
) -> None:
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    for config, told in (
        ({"batch_size": 5}, "--batch-size was 4 and is 5 now"),
        ({"flow_lr": 1e-3}, "--set flow_lr was 0.002 and is 0.001 now"),
        ({"autoencoder_batch_size": 2}, "--set autoencoder_batch_size was 4 and is 2 now"),
    ):
        with pytest.raises(UsageError, match=told):
            ends(settings(data, run, resume=True, config=config))
    free = {"save_every": 7.0, "sample_every": 8.0, "report_every": 9.0}
    ends(settings(data, run, resume=True, config=free))  # changes nothing that is learned
    assert differences(all_of(run), all_of(unbroken)) == ["config.toml"]
    now, before = (tomllib.loads((one / "config.toml").read_text()) for one in (run, unbroken))
    assert now == before | free  # what was asked for now holds from here on
    other = Path(shutil.copytree(data, tmp_path / "other"))
    (other / "03.png").unlink()
    told = said(ends(settings(other, run, resume=True)))
    assert any("last resumed: 1 picture was removed; it goes on" in text for text in told)


def test_what_a_run_was_given_is_a_fact_of_it(data: Path, tmp_path: Path, unbroken: Path) -> None:
    """Weights to start from, a tokenizer and prompts are no settings, and change what is learned or told."""
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    for given, told in (
        (
            {"init": run / "model.safetensors"},
            "the weights that it starts from were not given and are now",
        ),
        ({"tokenizer": run / "tokenizer.model"}, "the tokenizer was not given and is now"),
        ({"attributes": ()}, "--attributes was not given and is none now"),
    ):
        with pytest.raises(UsageError, match=told):
            ends(settings(data, run, resume=True, **given))
    told = ends(settings(data, run, resume=True, prompts=["a red ball"]))
    assert any("prompts of the grids are others now" in text for text in said(told))
    assert differences(all_of(run), all_of(unbroken)) == []


# -- numbers ----------------------------------------------------------------------------------------

LOSSES = {
    "contrastive": "contrastive_loss",
    "autoencoder": "perceptual_loss",
    "flow": "velocity_loss",
}
FIRST = {"contrastive": 1, "autoencoder": 3, "flow": 7}  # steps, counted over the run


def spoil(patch: pytest.MonkeyPatch, stage: str, spoilt: Callable[[int], bool]) -> None:
    """Add a NaN to the loss of a stage, in those of the run's steps that are asked for."""
    here = 0

    def count(_: object, number: int) -> None:
        nonlocal here
        here = number

    before_each_step(patch, count)
    whole = getattr(losses, LOSSES[stage])

    def loss(*given: Any) -> torch.Tensor:
        return whole(*given) + (math.nan if spoilt(here) else 0.0)

    patch.setattr(losses, LOSSES[stage], loss)


def not_finite(run: Path) -> list[str]:
    """The tensors of a run's state and models that hold a number that is not finite."""
    state = checkpoint.load_state(run)
    assert state is not None
    groups = dict(state.files)
    for name in ("model.safetensors", "best.safetensors"):
        if (run / name).exists():
            groups[name] = dict(checkpoint.load_model(run / name).networks.state_dict())
    return [
        f"{group}.{name}"
        for group, tensors in groups.items()
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]


@pytest.mark.parametrize("stage", LOSSES)
def test_a_step_that_is_not_finite_is_left_out_and_counted(
    stage: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, stage, lambda step: step == FIRST[stage] + 1)
    ends(settings(data, tmp_path / "run"))
    rows = rows_of(tmp_path / "run")
    assert [row["skipped"] for row in rows] == [int(n > FIRST[stage]) for n in range(1, STEPS + 1)]
    assert not_finite(tmp_path / "run") == []


@pytest.mark.parametrize("stage", ["autoencoder", "flow"])
def test_some_steps_in_a_row_that_are_not_finite_go_back(
    stage: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = FIRST[stage]
    spoil(monkeypatch, stage, lambda step: first < step <= first + 3)
    told = ends(settings(data, tmp_path / "run"))
    (back,) = (text for text in said(told) if "back to step" in text)
    assert back.endswith(f"back to step {first - 1:,}, other batches")
    assert isinstance(told[-1], events.Finished)
    assert told[-1].steps == STEPS
    assert not_finite(tmp_path / "run") == []


@pytest.mark.parametrize("stage", LOSSES)
def test_numbers_that_stay_bad_end_the_run_with_good_weights(
    stage: str, data: Path, tmp_path: Path
) -> None:
    config = {"contrastive": 0.3, "steps": 20}  # five steps, six and nine
    first = {"contrastive": 0, "autoencoder": 5, "flow": 11}[stage]
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, stage, lambda step: step > first)
        with pytest.raises(TrainingError, match="not finite") as error:
            ends(settings(data, tmp_path / "run", config=config))
    assert error.value.exit_code == 1
    assert checkpoint.saved_step(tmp_path / "run") == first
    assert not_finite(tmp_path / "run") == []
    assert checkpoint.read_status(tmp_path / "run")["status"] == "failed"
    if stage == "flow":  # and goes on once what was wrong is no more
        told = ends(settings(data, tmp_path / "run", config=config, resume=True))
        assert isinstance(told[-1], events.Finished)
        assert stages_of(told) == ["tokenizer", "flow"]
