"""The full counts of the promises about going on: killed at any step, or with something changed. One seed: T2I_SEED."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import train_faults
from faults import _toy_data

from t2i_cli import checkpoint
from t2i_cli import train as training
from t2i_cli.config import PRESETS, RESOLUTIONS, TrainConfig
from t2i_cli.errors import T2IError, UsageError
from t2i_cli.training import events, loop
from tests import toy_runs
from tests.slow.summary import SEED, count, run_script, share

pytestmark = pytest.mark.slow


def test_5_a_kill_in_every_step(memory: Path):
    begun = time.monotonic()
    told = run_script("train_faults.py", "resume", memory, share(200), SEED)
    print(
        f"\n{told['states compared']} states compared, {told['runs to the end']} runs to the end; {told['phases']}"
    )
    count(
        f"5: killed in each step of a run of {share(200)} and resumed",
        told["cases"],
        told["failures"],
        begun,
    )


def test_5_chains_of_fifty_kills(memory: Path):
    begun = time.monotonic()
    told = run_script("train_faults.py", "chains", memory, share(4), 50, SEED)
    count("5: runs of 60 steps, 50 kills in each", told["cases"], told["failures"], begun)


def test_5_kills_while_latents_are_made(memory: Path):
    begun = time.monotonic()
    told = run_script("train_faults.py", "encoding", memory, share(60), SEED)
    print(f"\n{told.get('counts')}")
    count(
        "5: killed while pictures or captions are encoded", told["cases"], told["failures"], begun
    )


# -- what may not change ----------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_runs.make_small(monkeypatch)


def another(name: str, value: Any) -> Any:
    """Another value of a setting, within its bounds."""
    kind = get_type_hints(TrainConfig)[name]
    choices = {
        "size": tuple(PRESETS), "resolution": RESOLUTIONS, "precision": ("bf16", "fp32"),
        "text_encoder": ("builtin", "lstm"), "attribute_weights": ("", "style=bold:2"),
    }.get(name) or get_args(kind)  # fmt: skip
    if choices:
        return next(choice for choice in choices if choice != value)
    if kind is bool:
        return not value
    if kind is int:
        return value + 1
    return value * 0.5 if value else 0.25


def told_of(change: Callable[[], training.TrainSettings]) -> tuple[str, list[str]]:
    """The refusal, if there is one, and the messages of a run that goes on."""
    messages: list[str] = []
    try:
        for event in training.train(change()):
            if isinstance(event, events.Message):
                messages.append(event.text)
    except T2IError as error:
        assert error.exit_code == 2, error
        return str(error), messages
    return "", messages


def test_6_whatever_has_changed_is_refused_or_announced(memory: Path, small: None):
    begun, failures, cases = time.monotonic(), [], 0
    data, run = _toy_data(memory / "data"), memory / "run"
    settings = train_faults.micro(data, run, 6)
    for _ in training.train(settings):
        pass
    whole = toy_runs.all_of(run)

    def tried(name: str, new: training.TrainSettings, refused: str = "", told: str = "") -> None:
        nonlocal cases
        cases += 1
        refusal, messages = told_of(lambda: new)
        if refused and refused not in refusal:
            failures.append(f"{name}: {refusal!r}, expected {refused!r}")
        if not refused and refusal:
            failures.append(f"{name}: {refusal}")
        if told and not any(told in message for message in messages):
            failures.append(f"{name}: {messages}, expected {told!r}")
        if (now := toy_runs.all_of(run)) != whole:
            failures.append(f"{name}: the run has changed: {toy_runs.differences(now, whole)}")

    given = settings.config
    for field in dataclasses.fields(TrainConfig):
        value = another(field.name, getattr(given, field.name))
        more = {"steps": 0} if field.name == "time" else {}
        value = 60.0 if field.name == "time" else value
        try:
            changed = dataclasses.replace(given, **{field.name: value}, **more)
        except UsageError as error:
            failures.append(f"{field.name} = {value}: {error}")
            continue
        new = dataclasses.replace(settings, config=changed)
        free = field.name in loop.FREE_TO_CHANGE or field.name == "teacher_weight"
        tried(field.name, new, "" if free else f"{field.name}: ")
    one, caption = data / "3.png", data / "5.txt"
    others: dict[str, Callable[[Path], object]] = {
        "a caption": lambda d: (d / caption.name).write_text("another\n"),
        "an alternative": lambda d: (d / caption.name).write_text(caption.read_text() + "bar\n"),
        "a picture": lambda d: shutil.copy(d / "4.png", d / one.name),
        "one less": lambda d: ((d / one.name).unlink(), (d / "3.txt").unlink()),
        "one more": lambda d: (shutil.copy(one, d / "n.png"), (d / "n.txt").write_text("n\n")),
        "a name": lambda d: (
            (d / one.name).rename(d / "x.png"),
            (d / "3.txt").rename(d / "x.txt"),
        ),
        "two captions": lambda d: (
            (d / "1.txt").write_text((data / "2.txt").read_text()),
            (d / "2.txt").write_text((data / "1.txt").read_text()),
        ),
    }
    for name, change in others.items():
        place = memory / "other"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(data, place)
        change(place)
        tried(f"data: {name}", dataclasses.replace(settings, data=place), "data: ")
    moved = memory / "moved"
    shutil.copytree(data, moved)
    tried("data: moved", dataclasses.replace(settings, data=moved))
    weights, other = memory / "given.safetensors", memory / "other.safetensors"
    shutil.copy(run / "model.safetensors", weights)
    shutil.copy(run / "best.safetensors", other)
    tried("weights to start from", dataclasses.replace(settings, init=weights), "init: None -> ")
    tried("prompts", dataclasses.replace(settings, prompts=["x"]), told="prompts: ")
    tried("no prompts", dataclasses.replace(settings, prompts=None), told="prompts: ")
    own = run / "tokenizer.model"
    tried("tokenizer", dataclasses.replace(settings, tokenizer=own), "tokenizer: None -> ")
    tried("conditions", dataclasses.replace(settings, attributes=()), "attributes: None -> ")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        tried("threads", settings, told=f"started with {threads} threads, this machine uses")
    finally:
        torch.set_num_threads(threads)
    state = checkpoint.load_state(run)
    assert state is not None
    meta = json.loads(json.dumps(state.meta))
    meta["facts"]["torch"] = "2.0.0"
    checkpoint.save_state(run, state.step, state.files, meta)
    tried("torch", settings, told="torch: 2.0.0 -> ")
    count(
        "6: something has changed: refused, or announced with the difference",
        cases,
        failures,
        begun,
    )
