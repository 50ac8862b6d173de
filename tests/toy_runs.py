"""Runs of `t2i train` on toys, small enough that a test can make several: what is asked for, and all that is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2i_cli import checkpoint, config, images
from t2i_cli.checkpoint.safetensors_file import HEADER_HASH
from t2i_cli.config import TrainConfig
from t2i_cli.runtime import graphs
from t2i_cli.signals import StopRequest
from t2i_cli.train import TrainSettings, train
from t2i_cli.training import events, prepare, preview
from t2i_cli.training.stages import STAGES, Stage, autoencoder
from t2i_cli.training.step import StepResult
from tests.toys import MICRO, Toys

CLOCK = {"images_per_second", "memory_mb", "seconds", "eta_s"}  # of a log row
CLOCKS = {"seconds", "stage_seconds"}  # of a state's position
STEPS = 12  # two of contrastive, four of autoencoder, six of flow


def make_small(patch: pytest.MonkeyPatch) -> None:
    """The tiny preset smaller still, previews that take no time, and no graph for sampling."""
    patch.setitem(config.PRESETS, "tiny", MICRO)
    patch.setattr(autoencoder, "PERCEPTUAL_SIDE", 32)
    for module, name, value in (
        (preview, "HELD_OUT", 8),
        (preview, "GRID", 4),
        (prepare, "GRID", 4),
        (preview, "STEPS", 2),
        (preview, "BATCH", 8),
    ):
        assert hasattr(module, name)
        patch.setattr(module, name, value)
    patch.setattr(graphs, "is_made", lambda config: True)


def toy_folder(place: Path, *, styled: bool = False, opaque: bool = False) -> Path:
    """Sixteen toys with a caption file each, or with a table that tells their styles too."""
    place.mkdir(parents=True, exist_ok=True)
    toys = Toys(3 if opaque else 4)
    rows: list[str] = []
    for number, (pixels, captions) in enumerate(zip(toys.pixels, toys.captions, strict=True)):
        name = f"{number:02}"
        (place / f"{name}.png").write_bytes(images.encode(pixels))
        row = {"file_name": f"{name}.png", "text": captions[0], **toys.attributes[number]}
        rows.append(json.dumps(row))
        if not styled:
            (place / f"{name}.txt").write_text("\n".join(captions))
    if styled:
        (place / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return place


def settings(data: Path, out: Path, **more: Any) -> TrainSettings:
    """What a run on toys is asked for; ``config`` holds settings that are others."""
    options: dict[str, Any] = {
        "resolution": 32, "vocab_size": 300, "time": 0.0, "steps": STEPS, "batch_size": 4,
        "contrastive_batch_size": 8, "autoencoder_batch_size": 4, "precision": "fp32",
    } | more.pop("config", {})  # fmt: skip
    more = {"cache": data.parent / "cache", "device": "cpu", **more}
    return TrainSettings(data, out, TrainConfig(**options), **more)


def ends(run: TrainSettings) -> list[events.Event]:
    """All that a run tells."""
    return list(train(run))


def said(told: list[events.Event]) -> list[str]:
    """The messages of a run."""
    return [event.text for event in told if isinstance(event, events.Message)]


def stages_of(told: list[events.Event]) -> list[str]:
    """The stages that a run went through, in their order."""
    return [event.stage for event in told if isinstance(event, events.StageStarted)]


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's log, without what the clock has a part in."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def all_of(run: Path) -> dict[str, Any]:
    """Everything that a run leaves and that the clock has no part in, by name."""
    state = checkpoint.load_state(run)
    assert state is not None, f"{run} holds no state"
    found: dict[str, Any] = {
        f"{group}.{name}": tensor.numpy().tobytes()
        for group, tensors in state.files.items()
        for name, tensor in tensors.items()
    }
    position = state.meta["position"]
    found["position"] = {key: value for key, value in position.items() if key not in CLOCKS}
    found["log"] = rows_of(run)
    for name in ("model.safetensors", "best.safetensors"):
        if (run / name).exists():
            info = checkpoint.read_info(run / name, verify=True)
            told = {key: value for key, value in info.metadata.items() if key.startswith("t2i.")}
            for key in (
                "t2i.seconds",
                HEADER_HASH,
            ):  # the clock's, and what covers a title and a date
                del told[key]
            found[name] = [info.hash, told]
    for name in ("config.toml", "tokenizer.model", "words.txt", "data.json"):
        found[name] = (run / name).read_bytes()
    for path in sorted((run / "samples").glob("*")):
        found[path.name] = path.read_bytes()
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is not the same, by name; for the log the first row that differs."""
    wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
    if "log" in wrong:
        pairs = zip(found["log"], expected["log"], strict=False)
        first = next((pair for pair in pairs if pair[0] != pair[1]), "other length")
        wrong.append(str(first)[:300])
    return wrong


def around_each_step(
    patch: pytest.MonkeyPatch, around: Callable[[Stage, Callable[[], StepResult]], StepResult]
) -> None:
    """Put something around every step of any stage; it is called with the stage and with what makes the step."""

    def wrapped(step: Callable[..., StepResult]) -> Callable[..., StepResult]:
        def stepped(stage: Stage, position: int, progress: float) -> StepResult:
            return around(stage, lambda: step(stage, position, progress))

        return stepped

    for kind in STAGES.values():
        patch.setattr(kind, "step", wrapped(kind.step))


def before_each_step(patch: pytest.MonkeyPatch, call: Callable[[Stage, int], object]) -> None:
    """Call something before every step of any stage, with the stage and the number of the step in this process."""
    count = 0

    def counted(stage: Stage, step: Callable[[], StepResult]) -> StepResult:
        nonlocal count
        count += 1
        call(stage, count)
        return step()

    around_each_step(patch, counted)


def stop_in_step(patch: pytest.MonkeyPatch, number: int, signum: int = 15) -> StopRequest:
    """A wish to stop that comes true while this process makes its so-manieth step."""
    request = StopRequest()
    before_each_step(patch, lambda _, count: count == number and request.receive(signum))
    return request
