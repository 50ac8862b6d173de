"""`t2i train`: a folder of captioned pictures -> a run folder with a model that makes more of them.

Enters: `TrainSettings`. Leaves: events (`t2i_cli.training.events`) while it works, and on disk the run folder that
docs/files.md describes. The stages are those of docs/model.md: tokenizer, contrastive, autoencoder, flow. A run goes on
from its last save, and with a budget in steps it then makes the very bytes that an unbroken run makes.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import torch

from t2i_cli import checkpoint, libraries
from t2i_cli.config import TrainConfig, with_rates
from t2i_cli.errors import DeviceError, OutputError, Stopped, T2IError, UsageError
from t2i_cli.runtime import graphs
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.training import changes, distributed
from t2i_cli.training.events import Event, Finished, Message
from t2i_cli.training.loop import (
    begin,
    facts,
    go_through_stages,
    last_state,
    look,
    report,
    restore,
    save,
)
from t2i_cli.training.prepare import (
    be_taught,
    find_teacher,
    find_words,
    make_material,
    make_tokenizer,
    read_data,
    tokenizer_stage,
    tune_again,
    write_data,
)
from t2i_cli.training.run import Run, TrainSettings, trunk_dtype
from t2i_cli.wording import number_of

__all__ = ["TrainSettings", "choose_device", "plan", "train"]

# changes that a resumed run tells and bears; all processes hold all that is saved, so any number of them can go on
ANNOUNCED = ("prompts", "precision used", "torch", "processes")
ITS_OWN = ("tokenizer", "init")  # that a resumed run need not be given again


def choose_device(name: str) -> torch.device:
    """The device of a name; auto takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"--device {name}: no such device", "use auto, cpu, cuda, cuda:N or mps"
        ) from None
    found = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if device.type not in found:
        raise UsageError(f"--device {name}: not supported", "use auto, cpu, cuda, cuda:N or mps")
    if (device.index or 0) >= found[device.type]:
        what = {"cuda": "CUDA GPU", "mps": "Apple GPU", "cpu": "CPU"}[device.type]
        raise UsageError(
            f"--device {name}: torch finds {found[device.type] or 'no'} {what} here",
            "use --device cpu or auto",
        )
    return device


def plan(settings: TrainSettings) -> dict[str, Any]:
    """What a run would do, and about how long it would take: `--dry-run`. Nothing is written but the caches.

    A few steps of each stage are timed on the device, the flow's on latents that are made up.
    """
    if distributed.launched().size > 1:
        raise UsageError("--dry-run is for one process", "leave torchrun out")
    device = choose_device(settings.device)
    run = Run(settings, device)
    find_teacher(run)
    read_data(run)
    make_tokenizer(run)
    for _ in make_material(run):
        pass
    stages: dict[str, dict[str, float]] = {}
    for name in run.stages:
        seconds_a_step = _timed(run, name)
        size = run.stage.batch_size
        if run.config.steps:
            steps = run.stage_steps(name)
            seconds = steps * seconds_a_step
        else:
            seconds = run.config.time * run.shares[name]
            steps = seconds / seconds_a_step
        stages[name] = {
            "seconds": seconds,
            "images_per_second": size / seconds_a_step,
            "images": int(steps * size),
        }
    model = run.material.networks.config
    return {
        "data": str(settings.data),
        "pictures": len(run.material.batches),
        "held_out": len(run.held_out),
        "out": str(settings.out),
        "device": str(device),
        "precision": str(trunk_dtype(run.config.precision, device)).removeprefix("torch."),
        "resolution": model.resolution,
        "opaque": model.opaque,
        "parameters": run.material.networks.parameter_count(),
        "stages": stages,
        "seconds": sum(told["seconds"] for told in stages.values()),
    }


def _timed(run: Run, name: str) -> float:
    """Seconds that a step of a stage takes: the least of three."""
    begin(run, name)
    rehearsal = run.stage.rehearse()
    taken: list[float] = []
    for turn in range(3):
        start = time.perf_counter()
        rehearsal(turn)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


def train(settings: TrainSettings) -> Iterator[Event]:
    """Train a model, telling what happens.

    Where torchrun has started several processes they train it together, each calling this with the same settings; only
    the first one writes.

    Args:
        settings: what is asked for; `settings.stop` is looked at after each step.

    Yields:
        Events, the last one `Finished`.

    Raises:
        UsageError: the run folder holds a run and neither resume nor force is set; a setting changed on resume; no
            such device; a batch that the processes cannot share evenly.
        DataError: the data is not usable.
        TrainingError: numbers stopped being finite and going back did not help.
        DeviceError: out of memory.
        OutputError: something could not be written; what was there before is whole.
        Stopped: a signal asked for the end, and the state is saved.
    """
    device = choose_device(distributed.device_name(settings.device))
    with distributed.joined(device):
        run = Run(settings, device)
        _check_shares(run)
        yield from _locked(run) if run.first else _train(run)


def _check_shares(run: Run) -> None:
    processes = distributed.world().size
    for name in ("contrastive_batch_size", "autoencoder_batch_size", "batch_size"):
        rows = getattr(run.config, name)
        if rows % processes:
            fewer = max(rows // processes, 1) * processes
            raise UsageError(
                f"{name} = {rows}: {processes} processes cannot share it evenly",
                f"use {fewer} or {(rows // processes + 1) * processes}",
            )


def _locked(run: Run) -> Iterator[Event]:
    settings, device = run.settings, run.device
    if settings.out.exists() and not settings.out.is_dir():
        raise UsageError(f"{settings.out} is a file, not a folder", "give another -o")
    started = (settings.out / "config.toml").exists() or (settings.out / "state").exists()
    if started and not (settings.resume or settings.force):
        raise UsageError(
            f"{settings.out} holds a run already",
            "go on with --resume, start again with -f, or give another -o",
        )
    made = [one for one in (settings.out, *settings.out.parents) if not one.exists()]
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{settings.out}: cannot make this folder: {error.strerror}", "give another -o"
        ) from error
    try:
        with checkpoint.RunLock(settings.out):
            if started and settings.force and not settings.resume:
                _clear(run)
            with _telling_how_it_ends(run):
                yield from _train(run)
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"out of memory on {device}", _smaller(run)) from error
    except RuntimeError as error:
        if "allocate memory" in str(error) or "DefaultCPUAllocator" in str(error):
            raise DeviceError(f"out of memory on {device}", _smaller(run)) from error
        raise
    finally:
        if run.writer is not None:
            run.writer.close()
        with contextlib.suppress(OSError):  # a run that never began leaves no folder
            for folder in made:
                folder.rmdir()


@contextlib.contextmanager
def _telling_how_it_ends(run: Run) -> Iterator[None]:
    """Leave in the run folder whether a run that did not reach its end was stopped or failed, for `t2i info`."""
    try:
        yield
    except BaseException as error:
        stopped = not isinstance(error, Exception) or isinstance(error, Stopped)
        if run.begun:
            with contextlib.suppress(OutputError):  # what went wrong before is told
                why = "" if stopped else str(error).partition("\n")[0]
                checkpoint.write_status(run.out, "stopped" if stopped else "failed", why)
        raise


def _smaller(run: Run) -> str:
    return f"try --batch-size {max(run.config.batch_size // 2, 2)} or a smaller --size"


RUN_FILES = (
    "config.toml",
    "tokenizer.model",
    "words.txt",
    "model.safetensors",
    "best.safetensors",
    "log.jsonl",
    "data.json",
    "status.json",
)


def _clear(run: Run) -> None:
    """Remove what a run wrote, and nothing else."""
    for name in ("state", "samples", "tensorboard"):
        shutil.rmtree(run.out / name, ignore_errors=True)
    for name in RUN_FILES:
        (run.out / name).unlink(missing_ok=True)


def _train(run: Run) -> Iterator[Event]:
    settings = run.settings
    find_teacher(run)
    run.given = _given(run)
    state = last_state(run) if settings.resume else None
    if state is not None:
        run.warm = run.warm or state.meta["facts"].get("init") is not None
        tune_again(run, state.meta["facts"])
    yield Message(f"reading {settings.data}")
    if settings.resume:
        told: Any = changes.remembered(settings.out / "data.json") if run.first else ({}, False, [])
        run.before, run.keep_sides, once = distributed.from_first(told)
        run.once_trained = set(once)
    with distributed.in_turn():
        read_data(run)
    distributed.same(f"{run.pictures.digest} {run.pictures.pixels.shape}", "data")
    held = f", {len(run.held_out):,} held out" if len(run.held_out) else ""
    yield Message(
        f"{run.pictures.report.layout}: {number_of(len(run.learned_from), 'picture')} to learn from{held}"
    )
    for problem in run.pictures.report.errors:
        yield Message(f"left out: {problem.text}")
    for problem in run.pictures.report.problems:
        if problem.kind == "own":
            yield Message(problem.text)
    if state is not None and run.first:
        yield from _check_unchanged(run, state.meta)
        for name in ITS_OWN:
            run.given[name] = run.given[name] or state.meta["facts"].get(name)
    yield from tokenizer_stage(run, resumed=state is not None)
    with distributed.in_turn():
        yield from find_words(run, resumed=state is not None)
    stage = run.stages[0] if state is None else state.meta["position"]["stage"]
    if run.teacher is not None and stage == "contrastive":
        with distributed.in_turn():
            yield from be_taught(run, run.teacher)
    yield from make_material(run, resumed=state is not None)
    if state is None:
        _write_start(run)
    else:
        yield from _resume(run, state)
    yield Message(_told(run))
    with distributed.in_turn():
        yield from _make_graph(run)
    if settings.tensorboard and run.first:
        run.writer = _tensorboard(run)
    if run.first:
        checkpoint.write_status(run.out, "running")
        run.begun = True
    with distributed.watched():
        yield from go_through_stages(run)
        distributed.wait()  # the end is reached by all
    yield from _finish(run)


def _make_graph(run: Run) -> Iterator[Event]:
    """Make the graph that `t2i sample` wants: before the first step, so that it is there however a run ends."""
    config = run.material.networks.config
    if not run.first or graphs.is_made(config):
        return
    yield Message("making this model's graph for fast sampling, once (about 15 s)")
    with contextlib.suppress(T2IError):  # where it cannot be made, sampling goes through torch
        graphs.bundle_for(config, lambda _: None)


def _write_start(run: Run) -> None:
    if not run.first:
        return
    checkpoint.write_atomic(run.out / "config.toml", _toml(run.config.to_dict()).encode())
    checkpoint.write_atomic(run.out / "tokenizer.model", run.tokenizer.to_bytes())
    checkpoint.write_atomic(run.out / "words.txt", run.words.to_bytes())
    write_data(run)
    (run.out / "log.jsonl").unlink(missing_ok=True)


def _resume(run: Run, state: checkpoint.RunState) -> Iterator[Event]:
    restore(run, state)
    if run.first:  # what was asked for now holds from here on
        checkpoint.write_atomic(run.out / "config.toml", _toml(run.config.to_dict()).encode())
        if run.keep_sides:
            write_data(run)
    if run.changed:
        run.saved = -1
    if run.first:
        checkpoint.truncate_log(run.out / "log.jsonl", run.at.step)
        for row in _log_rows(run):
            run.advice += run.diagnostics.feed(row)
    yield Message(f"resumed at step {run.at.step:,} ({run.at.stage} stage)")
    if run.at.stage == run.stages[-1] and run.stage_progress() >= 1.0:
        asked = f"--steps {2 * run.at.step}" if run.config.steps else "--time and a longer span"
        yield Message(f"the run is finished; to train longer: --resume with {asked}")
    with distributed.in_turn():
        yield from run.stage.prepare()


def _told(run: Run) -> str:
    """One line on what is trained."""
    networks, config = run.material.networks, run.material.networks.config
    kind = "RGB" if config.opaque else "RGBA"
    size = networks.parameter_count()["generator"] / 1e6
    several = distributed.world().size
    processes = f", {several} processes" if several > 1 else ""
    columns = ", ".join(f"{one.name} ({len(one.values)})" for one in config.attributes)
    conditions = f", conditions: {columns}" if columns else ""
    return (
        f"{config.size}, {config.resolution} px {kind}, generator {size:.1f} M parameters, "
        f"on {run.device}{processes}{conditions}"
    )


def _finish(run: Run) -> Iterator[Event]:
    if run.at.previewed != run.at.step:
        yield from look(run)
    if run.at.reported != run.at.step or run.at.fresh:
        yield from report(run)
        run.saved = -1
    if run.saved != run.at.step:
        yield from save(run)
    if run.first:
        checkpoint.write_status(run.out, "finished")
        run.begun = False
    figures = {name: value for name, value in run.at.figures.items() if math.isfinite(value)}
    yield Finished(
        run.out,
        run.out / "model.safetensors",
        run.at.step,
        run.at.seconds,
        tuple(run.advice),
        figures,
    )


def _given(run: Run) -> dict[str, Any]:
    """What a run was given beside its config, as far as it changes what is learned or logged."""
    settings = run.settings
    init, tokenizer, prompts = settings.init, settings.tokenizer, settings.prompts
    precision = str(trunk_dtype(run.config.precision, run.device)).removeprefix("torch.")
    return {
        "init": None if init is None else checkpoint.read_info(init).hash,
        "tokenizer": None
        if tokenizer is None
        else sha256(Tokenizer.load(tokenizer).to_bytes()).hexdigest(),
        "prompts": None if prompts is None else sha256("\n".join(prompts).encode()).hexdigest(),
        "attributes": ",".join(settings.attributes) if settings.attributes is not None else None,
        "defaults": ",".join(settings.defaults),
        "precision used": precision,
        "torch": torch.__version__,
        "processes": distributed.world().size,
    }


def _check_unchanged(run: Run, meta: dict[str, Any]) -> Iterator[Event]:
    # a setting that a run of an older version did not know had what is the default now
    # (and of what it was given beside its config, nothing is known)
    before, now = TrainConfig().to_dict() | with_rates(meta["facts"]), facts(run)
    now = {key: value for key, value in now.items() if key in before or key not in run.given}
    before = {key: value for key, value in before.items() if key in now}
    changed = {
        key: (before.get(key), now.get(key))
        for key in (*before, *now)
        if before.get(key) != now.get(key)
    }
    threads = changed.pop("threads", None)
    told_only = [(key, changed.pop(key)) for key in ANNOUNCED if key in changed]
    for name in ITS_OWN:
        if run.given[name] is None:
            changed.pop(name, None)
    data_changed = changed.pop("data", None) is not None
    budget = {key: changed.pop(key) for key in changes.BUDGET if key in changed}
    run.changed = data_changed or bool(budget)
    if changed:
        told, hint = changes.refusal(changed)
        raise UsageError(f"{run.out}: this run was started with other settings: {told}", hint)
    if data_changed and not run.before:
        raise UsageError(
            f"{run.out}: the data has changed since this run was started, and it is not known how",
            "give the data as it was, or another -o",
        )
    if data_changed:
        told = changes.pictures_change(run.before, run.pictures.names, run.pictures.hashes)
        yield Message(
            f"since the run was started or last resumed: {told}; it goes on with what is there now"
        )
    if budget:
        at = meta["position"]
        yield Message(changes.budget_change(budget, at["seconds"], at["step"]))
    for key, (was, is_now) in told_only:
        if key == "prompts":
            yield Message("the prompts of the grids are others now: figures and grids will differ")
            continue
        yield Message(
            f"{key}: {was} -> {is_now} since the run was started: its last bits will differ"
        )
    if threads is not None:
        was, is_now = threads
        yield Message(
            f"the run was started with {was} threads, this machine uses {is_now}: its last bits will differ"
        )


def _log_rows(run: Run) -> Iterator[dict[str, Any]]:
    path = run.out / "log.jsonl"
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)


def _tensorboard(run: Run) -> Any:
    libraries.silence()
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "--tensorboard needs the tensorboard package", 'pip install "t2i-cli[tensorboard]"'
        ) from error
    return SummaryWriter(str(run.out / "tensorboard"))


def _toml(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
