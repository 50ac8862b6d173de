"""The loop of training: steps, reports, previews and saves of a run, stage by stage."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from t2i_cli import checkpoint, libraries
from t2i_cli.config import TrainConfig
from t2i_cli.data import splits
from t2i_cli.errors import Stopped, TrainingError, WeightsError
from t2i_cli.signals import StopRequest
from t2i_cli.training import distributed
from t2i_cli.training.events import Advice, Event, Message, Report, Saved, StageStarted
from t2i_cli.training.preview import preview
from t2i_cli.training.run import Position, Run
from t2i_cli.training.stages import STAGES
from t2i_cli.training.teacher import BUILTIN

__all__ = ["begin", "facts", "go_through_stages", "last_state", "look", "report", "restore", "save"]

SKIPS_BEFORE_GOING_BACK = 3  # steps in a row that were not finite
MOST_RETURNS = 3  # to the last good state, before the run ends


def go_through_stages(run: Run) -> Iterator[Event]:
    """Train every stage that is not behind the run yet; a resumed one goes on where it was."""
    for index, name in enumerate(run.stages):
        if run.at.stage and index < run.stages.index(run.at.stage):
            continue
        yield StageStarted(
            name,
            index + 2,
            len(run.stages) + 1,
            run.stage_progress() if run.at.stage == name else 0.0,
        )
        if name != run.at.stage:
            begin(run, name)
            with distributed.in_turn():
                yield from run.stage.prepare()
            for tensors in run.stage.state_dict().values():
                distributed.take_over(tensors)  # machines that differ may have drifted apart
            yield from save(run)
            if run.material.warm and run.material.references is not None:
                yield Message(
                    f"{run.out} draws from your pictures already; training makes it better"
                )
        yield from _steps(run)
        # the last one's state is the same, whether or not the run was stopped in its last step
        if name != run.stages[-1]:
            run.stage.finish()


def begin(run: Run, name: str) -> None:
    """Enter a stage."""
    with libraries.Compiler():  # optimizers import it
        run.stage = STAGES[name](run.material)
    run.at.stage, run.at.stage_step, run.at.stage_seconds = name, 0, 0.0
    run.at.sums.clear()
    run.at.best = -math.inf
    run.speed = []


def _steps(run: Run) -> Iterator[Event]:
    in_a_row = 0
    run.clock = time.monotonic()
    while run.stage_progress() < 1.0:
        in_a_row = _step(run, in_a_row)
        if in_a_row >= SKIPS_BEFORE_GOING_BACK:
            yield from _go_back(run)
            in_a_row = 0
            continue
        now = time.monotonic()
        if _preview_due(run, now):
            yield from look(run)
        if _report_due(run, now):
            yield from report(run)
        run.tick()
        stop = run.agree()
        if stop or stop.save_now or now - run.last_save >= run.config.save_every:
            yield from save(run)
            run.settings.stop.save_now = False
        if stop:
            _end(run, stop)


def _step(run: Run, in_a_row: int) -> int:
    """Make a step; returns how many were left out in a row."""
    at, start = run.at, time.monotonic()
    size = run.stage.batch_size
    # after a return to a good state the same step is fed other pictures
    result = run.stage.step(at.stage_step + 1_000_003 * at.returns, run.stage_progress())
    taken = time.monotonic() - start
    at.step, at.stage_step, at.images = at.step + 1, at.stage_step + 1, at.images + size
    run.tick()
    run.speed = [*run.speed[-49:], (taken, size)]
    for name, value in distributed.mean(result.figures).items():
        number = float(value)
        if math.isfinite(number):
            total, count = at.sums.get(name, [0.0, 0])
            at.sums[name] = [total + number, count + 1]
    at.skipped += result.skipped
    return in_a_row + 1 if result.skipped else 0


def _preview_due(run: Run, now: float) -> bool:
    """By the clock, or in a run of so many steps at each quarter, so that a log repeats itself."""
    if run.config.steps:
        return run.at.step % max(run.config.steps // 4, 1) == 0
    # a short run is previewed too, and previews take a twentieth of the time at most
    every = max(min(run.config.sample_every, run.config.time / 6), 20 * run.preview_seconds)
    return now - run.last_preview >= every


def look(run: Run) -> Iterator[Event]:
    """A preview, and the best weights so far where it is the best one of the last stage."""
    yield from preview(run)
    at = run.at
    if not run.first or at.stage != run.stages[-1]:
        return
    # a run may end with its autoencoder, which draws nothing: the nearer the better
    score = at.figures.get("retrieval", -at.figures.get("reconstruction_l1", math.inf))
    if score >= at.best:
        at.best = score
        save_model(run, run.out / "best.safetensors")


def _report_due(run: Run, now: float) -> bool:
    if run.config.steps:
        return run.at.step % max(run.config.steps // 200, 1) == 0
    return now - run.last_report >= run.config.report_every


def _go_back(run: Run) -> Iterator[Event]:
    """Return to the last good state, with other batches ahead; end the run after a few returns."""
    returns = run.at.returns + 1
    state = last_state(run)
    if state is None or returns > MOST_RETURNS:
        raise TrainingError(
            f"losses or gradients were not finite at step {run.at.step:,}, {returns - 1} times over; "
            f"the weights of the last good state are kept in {run.out}",
            "lower --lr, or give --precision fp32",
        )
    skipped = run.at.skipped
    restore(run, state)
    run.at.returns, run.at.skipped = returns, skipped
    run.at.sums.clear()
    yield Message(
        f"numbers were not finite {SKIPS_BEFORE_GOING_BACK} times in a row: back to step {run.at.step:,}, other batches"
    )


def last_state(run: Run) -> checkpoint.RunState | None:
    """The newest whole state of the run folder, on all processes."""
    return distributed.state_from_first(checkpoint.load_state(run.out) if run.first else None)


def restore(run: Run, state: checkpoint.RunState) -> None:
    """Put a run where a state says.

    Raises:
        WeightsError: the state is of other networks or another stage.
    """
    known = {item.name for item in dataclasses.fields(Position)}
    try:
        told = dict(state.meta)["position"]
        at = Position(**{key: value for key, value in told.items() if key in known})
        if not hasattr(run, "stage") or run.stage.name != at.stage:
            begin(run, at.stage)
        run.at = at
        run.stage.load_state_dict(state.files)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"{state.path}: this state does not fit the run: {error}", "start again with -f"
        ) from error
    run.last_report = run.last_save = run.last_preview = time.monotonic()
    run.saved = run.at.step


def _end(run: Run, stop: StopRequest) -> NoReturn:
    """Stop where a signal asked for it and the state is saved."""
    distributed.wait()  # torchrun ends all when the first of them has ended
    raise Stopped(stop.signum, f"stopped at step {run.at.step:,}; saved, go on with --resume")


def report(run: Run) -> Iterator[Event]:
    """A row of the log."""
    if not run.first:
        return
    at = run.at
    row: dict[str, Any] = {
        "step": at.step,
        "stage": at.stage,
        "stage_progress": round(run.stage_progress(), 6),
        "progress": round(run.progress(), 6),
        "images": at.images,
    }
    row |= {name: total / count for name, (total, count) in at.sums.items() if count}
    row |= run.stage.report(run.held_out)
    if "penalty" in row and row.get("d_loss"):
        row["penalty_ratio"] = row["penalty"] / row["d_loss"]
    row |= {"skipped": at.skipped, **at.fresh}
    at.fresh, at.reported = {}, at.step
    at.sums.clear()
    for advice in run.diagnostics.feed(row):
        run.advice.append(advice)
        row.setdefault("advice", []).append({"signal": advice.signal, "text": advice.text})
        yield Advice(advice.signal, advice.text)
    seconds = sum(taken for taken, _ in run.speed)
    row["images_per_second"] = round(sum(size for _, size in run.speed) / max(seconds, 1e-9), 1)
    row |= {
        "memory_mb": _memory_mb(run.device),
        "seconds": round(at.seconds, 1),
        "eta_s": _eta(run),
    }
    row = {
        name: value
        for name, value in row.items()
        if not (isinstance(value, float) and not math.isfinite(value))  # JSON has no such number
    }
    checkpoint.append_line(run.out / "log.jsonl", json.dumps(row, allow_nan=False))
    if run.writer is not None:
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                run.writer.add_scalar(f"{at.stage}/{name}", value, at.step)
    run.last_report = time.monotonic()
    yield Report(row)


def _eta(run: Run) -> float:
    if run.config.steps:
        left = (1 - run.progress()) / max(run.progress(), 1e-6) * run.at.seconds
    else:
        left = max(run.config.time - run.at.seconds, 0.0)
    return round(left, 1)


def _memory_mb(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if platform.system() == "Darwin" else peak // 2**10


def save(run: Run) -> Iterator[Event]:
    """Save the state and the model."""
    if not run.first:
        return
    meta = {
        "facts": facts(run),
        "position": dataclasses.asdict(run.at),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    checkpoint.save_state(run.out, run.at.step, run.stage.state_dict(), meta)
    save_model(run, run.out / "model.safetensors")
    run.last_save, run.saved = time.monotonic(), run.at.step
    yield Saved(run.out, run.at.step)


FREE_TO_CHANGE = ("save_every", "sample_every", "report_every")  # do not change what is learned


def facts(run: Run) -> dict[str, Any]:
    """What may not change between a run's start and its resume."""
    found: dict[str, Any] = {
        key: value for key, value in run.config.to_dict().items() if key not in FREE_TO_CHANGE
    }
    found |= {"data": run.pictures.digest, "device": run.device.type}
    weight = found.pop("teacher_weight")  # of no consequence without a teacher
    if run.teacher is not None:
        found |= {"teacher": run.teacher.digest, "teacher_weight": weight}
    if run.device.type == "cpu":
        found["threads"] = torch.get_num_threads()
    return found | run.given


def save_model(run: Run, path: Path) -> None:
    """Write the model as it is drawn with: averaged networks, tokenizer, words, references."""
    weights: dict[str, dict[str, Tensor]] = run.stage.weights()
    checkpoint.save_model(
        path,
        weights,
        run.material.networks.config,
        run.tokenizer.to_bytes(),
        references=run.material.references,
        words=run.words.to_bytes(),
        title=run.out.name,
        description=f"trained by t2i on {run.settings.data.name}",
        extra={
            "t2i.stage": run.at.stage,
            "t2i.step": str(run.at.step),
            "t2i.images": str(run.at.images),
            "t2i.seconds": str(round(run.at.seconds)),
            "t2i.reconstruction_l1": run.at.reconstruction,
            "t2i.data": run.pictures.digest,
            "t2i.splits": json.dumps(_splits(run)),
            "t2i.train_config": json.dumps(_public(run.config)),
        },
    )


def _splits(run: Run) -> list[dict[str, Any]]:
    """The records of all splits that these weights come of: the run's own, and those of what it started from."""
    trained = {run.pictures.hashes[row] for row in run.learned_from} if run.keep_sides else set()
    trained |= run.once_trained
    own = splits.split_record(run.pictures, run.config.val, run.config.seed, trained)
    found = [own, *run.inherited]
    known = [record for k, record in enumerate(found) if record not in found[:k]]
    return known if len(known) <= splits.MOST else [known[0], splits.UNKNOWN]


def _public(config: TrainConfig) -> dict[str, Any]:
    """The config as a weights file tells it to anyone: of a teacher's folder, the name alone."""
    values = config.to_dict()
    if config.text_encoder not in BUILTIN and not config.text_encoder.startswith("hf:"):
        values["text_encoder"] = Path(config.text_encoder).name
    return values
