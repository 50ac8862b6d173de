"""`t2i train`: a folder of captioned pictures -> a run folder with a model that makes more of them.

Enters: `TrainSettings`. Leaves: events (`t2i_cli.training.events`) while it works, and on disk the run folder that
docs/files.md describes. The stages are those of docs/model.md: tokenizer, contrastive, flow, distill, adversarial. A
run goes on from its last save, and with a budget in steps it then makes the very bytes that an unbroken run makes.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from t2i_cli import checkpoint, data, graphs, images, metrics
from t2i_cli.config import PRESETS, ModelConfig, TrainConfig, model_config
from t2i_cli.data import ReadOptions
from t2i_cli.errors import (
    DeviceError,
    OutputError,
    Stopped,
    T2IError,
    TrainingError,
    UsageError,
    WeightsError,
)
from t2i_cli.folders import cache_folder
from t2i_cli.models import Networks, TextEncoding, build, grow, many_steps, one_step
from t2i_cli.noise import noise_batch
from t2i_cli.pixels import to_pixels
from t2i_cli.signals import StopRequest
from t2i_cli.tokenizer import Tokenizer, train_tokenizer
from t2i_cli.training import changes, distributed
from t2i_cli.training.batches import Batches, seed_for
from t2i_cli.training.doctor import Doctor
from t2i_cli.training.events import (
    Advice,
    Event,
    Finished,
    Message,
    Report,
    Sampled,
    Saved,
    StageStarted,
)
from t2i_cli.training.stages import STAGES, Learner
from t2i_cli.training.teacher import (
    BUILTIN,
    Lessons,
    Teacher,
    load_teacher,
    make_lessons,
    read_words,
)
from t2i_cli.training.vocabulary import counted, nearest, words_of
from t2i_cli.wording import number_of
from t2i_cli.words import Words

__all__ = ["TrainSettings", "choose_device", "plan", "train"]

FREE_TO_CHANGE = (
    "save_every",
    "sample_every",
    "report_every",
)  # settings that do not change what is learned
# changes that a resumed run tells and bears; all processes hold all that is saved, so any number of them can go on
ANNOUNCED = ("prompts", "precision used", "torch", "processes")
SKIPS_BEFORE_GOING_BACK = 3  # steps in a row that were not finite
MOST_RETURNS = 3  # to the last good state, before the run ends
GRID = 24  # pictures in a sample grid
HELD_OUT = 100  # pictures that are looked at while training
LOOK_STEPS = 6  # of the flow, each with guidance, in a look
TELL_EVERY = 10.0  # s between two lines on how far the teacher has read
T = TypeVar("T")
KNOWN = 2000  # training pictures that drawn ones are compared with, at most


@dataclass
class TrainSettings:
    """What a run is asked for."""

    data: Path
    out: Path
    config: TrainConfig = field(default_factory=TrainConfig)
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    init: Path | None = None  # weights to start from
    distill_from: Path | None = None  # a flow to distill, where init is past its own
    tokenizer: Path | None = None
    prompts: list[str] | None = (
        None  # of the sample grids; captions that were held out where there are none
    )
    resume: bool = False  # go on if there is something, else start
    force: bool = False  # throw away what is there
    reading: ReadOptions = field(default_factory=ReadOptions)  # how the data is read
    tensorboard: bool = False
    workers: int = 0  # threads that decode; 0: as many as there are processors
    cache: Path | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    progress: Callable[[int, int], None] | None = None  # of decoding, (done, total) pictures


def choose_device(name: str) -> torch.device:
    """The device of a name; auto takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        return torch.device(
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
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


def _trunk_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


# -- what a run is made of ----------------------------------------------------------------------


@dataclass
class _Position:
    """Where a run stands: what is saved as a run state's meta, with the tensors."""

    stage: str = ""
    stage_step: int = 0
    stage_seconds: float = 0.0
    step: int = 0  # optimizer steps over all stages
    seconds: float = 0.0  # of training over all stages and resumes
    images: int = 0
    images_before: int = 0  # of these, before this stage
    skipped: int = 0  # steps left out so far because a number was not finite
    returns: int = 0  # to the last good state
    pairs: list[int] = field(default_factory=list[int])  # steps that made those to distill from
    best: float = -math.inf
    sums: dict[str, list[float]] = field(
        default_factory=dict[str, list[float]]
    )  # figures since the last report: sum, count
    # figures of the last look at held-out pictures: those that no report has told yet, and all
    fresh: dict[str, float] = field(default_factory=dict[str, float])
    figures: dict[str, float] = field(default_factory=dict[str, float])
    looked: int = -1  # step of the last look
    reported: int = -1  # step of the last report


class _Run:
    """Everything a run holds while it works."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.first = distributed.world().first  # of the processes that train together
        config = _resolved(settings, device)
        self.config = dataclasses.replace(config, **distributed.from_first(config.to_dict()))
        self.out = settings.out
        self.at = _Position()
        self.stages = [stage for stage in STAGES if getattr(self.config, stage) > 0]
        self.given: dict[str, Any] = {}
        self.before: changes.Pictures = {}  # of a run that is resumed
        self.keep_sides = False  # the pictures have changed since the run was started
        self.changed = False  # what it is resumed with: the pictures or the budget
        self.pictures: data.CaptionedImages
        self.tokenizer: Tokenizer
        self.words: Words
        self.teacher: Teacher | None = None
        self.lessons: Lessons | None = None
        self.learner: Learner
        self.batches: Batches
        self.learned_from: np.ndarray
        self.held_out: np.ndarray
        self.prompts: list[str]
        self.doctor: Doctor
        self.known: Tensor | None = (
            None  # features of training pictures, for how near drawn ones come to them
        )
        self.advice: list[Advice] = []
        self.writer: Any = None
        self.clock = time.monotonic()
        self.saved = -1  # step of the last save
        self.last_report = self.last_save = self.last_sample = time.monotonic()
        self.speed: list[tuple[float, int]] = []

    # budget

    def tick(self) -> None:
        """Count the time since the last tick: what is asked for is time by the clock, looks and reports among it."""
        now = time.monotonic()
        self.at.stage_seconds += now - self.clock
        self.at.seconds += now - self.clock
        self.clock = now

    def agree(self) -> StopRequest:
        """What signals ask for, to any of the processes; the time is the first one's."""
        at = self.at
        stop, (at.stage_seconds, at.seconds) = distributed.agree(
            self.settings.stop, (at.stage_seconds, at.seconds)
        )
        return stop

    def look_seconds(self) -> float:
        """About how long a look will take, from the speed of the last steps: three passes each in flow, more later."""
        passes = (HELD_OUT + 48 + GRID) * {"flow": 2 * LOOK_STEPS / 3, "distill": 1 / 3}.get(
            self.at.stage, 1 / 12
        )
        return (
            passes
            * sum(taken for taken, _ in self.speed)
            / max(sum(size for _, size in self.speed), 1)
        )

    def share(self, stage: str) -> float:
        return getattr(self.config, stage) / sum(getattr(self.config, name) for name in self.stages)

    def share_before(self, stage: str) -> float:
        """Of all stages before one."""
        return sum(self.share(name) for name in self.stages[: self.stages.index(stage)])

    def stage_steps(self, stage: str) -> int:
        """Steps of a stage where steps rule: those of all stages together are the run's."""
        before = self.share_before(stage)
        start, end = (
            round(self.config.steps * min(done, 1.0))
            for done in (before, before + self.share(stage))
        )
        return end - start

    def stage_progress(self) -> float:
        last = (
            self.at.stage == self.stages[-1]
        )  # has what is left: a run may be asked for more than at first
        if self.config.steps:
            before = self.at.step - self.at.stage_step
            steps = self.config.steps - before if last else self.stage_steps(self.at.stage)
            return min(1.0, self.at.stage_step / steps) if steps > 0 else 1.0
        seconds = self.config.time * self.share(self.at.stage)
        if last:
            seconds = max(seconds, self.config.time - (self.at.seconds - self.at.stage_seconds))
        return min(1.0, self.at.stage_seconds / seconds)

    def progress(self) -> float:
        return self.share_before(self.at.stage) + self.share(self.at.stage) * self.stage_progress()

    def batch_size(self) -> int:
        return (
            self.config.contrastive_batch_size
            if self.at.stage == "contrastive"
            else self.config.batch_size
        )


def _resolved(settings: TrainSettings, device: torch.device) -> TrainConfig:
    """The config with what was left to the machine decided.

    Only a flow can be distilled: the run's own, one that it starts from, or another one of the same model.

    Raises:
        UsageError: a flow to distill that is none, or that this run has no use for.
    """
    config, init, flow = settings.config, settings.init, settings.distill_from
    if flow is not None:
        _check_flow(flow, config, init)
    of_init = init is not None and _is_flow(init)
    many_steps_first = config.flow > 0 or flow is not None or of_init
    if not (many_steps_first or config.contrastive or config.adversarial):
        raise UsageError(
            "there is no flow to distill: this run trains none and starts from none",
            "give --init the weights of a flow stage, or --distill-from beside a distilled --init",
        )
    batch_size = config.batch_size or (256 if device.type == "cuda" else 64)
    return dataclasses.replace(
        config,
        distill=config.distill if many_steps_first else 0.0,
        batch_size=batch_size,
        contrastive_batch_size=config.contrastive_batch_size or 2 * batch_size,
    )


def _check_flow(flow: Path, config: TrainConfig, init: Path | None) -> None:
    if not _is_flow(flow):
        raise UsageError(
            f"--distill-from {flow}: these weights are not those of a flow stage",
            "give the weights of a run with --set distill=0 --set adversarial=0",
        )
    if init is None:
        raise UsageError(
            "--distill-from needs --init: the one-step model that goes on learning",
            "to distill a flow from its own weights, give them as --init alone",
        )
    if config.flow > 0 or config.contrastive > 0:
        raise UsageError(
            "--distill-from is for a run that trains neither the text encoder nor a flow of its own",
            "add --set contrastive=0 --set flow=0",
        )
    if config.distill <= 0:
        raise UsageError(
            "--distill-from: this run distills nothing", "leave it out, or give distill a share"
        )


def _is_flow(init: Path) -> bool:
    return checkpoint.read_info(init).metadata.get("t2i.stage") == "flow"


def plan(settings: TrainSettings) -> dict[str, Any]:
    """What a run would do, and about how long it would take: `--dry-run`. Nothing is written but the picture cache.

    Two steps of each stage are timed on the device.
    """
    if distributed.launched().size > 1:
        raise UsageError("--dry-run is for one process", "leave torchrun out")
    device = choose_device(settings.device)
    run = _Run(settings, device)
    _find_teacher(run)
    _read_data(run)
    _make_tokenizer(run)
    model = _make_networks(run)
    stages: dict[str, dict[str, float]] = {}
    for stage in run.stages:
        step, drawing = _timed(run, stage)
        size = run.batch_size()
        room = max(
            run.config.distill_pairs // size, 1
        )  # batches that the stage draws along the flow
        if run.config.steps:
            steps = run.stage_steps(stage)
            seconds = steps * step + min(steps / 2, room) * drawing
        else:
            seconds = run.config.time * run.share(stage)
            steps = (seconds - min(seconds / 2 / (step + drawing), room) * drawing) / step
        stages[stage] = {
            "seconds": seconds,
            "images_per_second": size / step,
            "images": int(steps * size),
        }
    return {
        "data": str(settings.data),
        "pictures": len(run.batches),
        "held_out": len(run.held_out),
        "out": str(settings.out),
        "device": str(device),
        "precision": str(_trunk_dtype(run.config.precision, device)).removeprefix("torch."),
        "resolution": model.resolution,
        "channels": model.image_channels,
        "parameters": run.learner.networks.parameter_count(),
        "stages": stages,
        "seconds": sum(told["seconds"] for told in stages.values()),
    }


def _timed(run: _Run, stage: str) -> tuple[float, float]:
    """Seconds that a step of a stage takes, and those of drawing a batch along the flow, 0 where that is not done."""

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run.at.stage = stage
    run.learner.begin(stage)
    batches = [run.batches.get(stage, turn, run.batch_size()) for turn in range(2)]
    _, step = (
        seconds(lambda turn=turn: run.learner.step(stage, batches[turn], turn, 0.5))
        for turn in range(2)
    )
    drawing = seconds(lambda: run.learner.make_pairs(1, batches[1])) if stage == "distill" else 0.0
    return step, drawing


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
        run = _Run(settings, device)
        _check_shares(run)
        yield from _locked(run) if run.first else _train(run)


def _check_shares(run: _Run) -> None:
    processes = distributed.world().size
    sizes = {
        "contrastive_batch_size" if stage == "contrastive" else "batch_size" for stage in run.stages
    }
    for name in sorted(sizes, reverse=True):
        rows = getattr(run.config, name)
        if rows % processes:
            fewer = max(rows // processes, 1) * processes
            raise UsageError(
                f"{name} = {rows}: {processes} processes cannot share it evenly",
                f"use {fewer} or {(rows // processes + 1) * processes}",
            )


def _locked(run: _Run) -> Iterator[Event]:
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
                _clear(settings.out)
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


def _smaller(run: _Run) -> str:
    return f"try --batch-size {max(run.config.batch_size // 2, 2)} or a smaller --size"


def _clear(out: Path) -> None:
    """Remove what a run wrote, and nothing else."""
    checkpoint.drop_pairs(out)
    for name in ("state", "samples", "tensorboard"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (
        "config.toml",
        "tokenizer.model",
        "words.txt",
        "model.safetensors",
        "best.safetensors",
        "log.jsonl",
        "data.json",
        "model.onnx",
    ):
        (out / name).unlink(missing_ok=True)


def _train(run: _Run) -> Iterator[Event]:
    settings = run.settings
    _find_teacher(run)
    yield Message(f"reading {settings.data}")
    if settings.resume:
        told = changes.remembered(settings.out / "data.json") if run.first else ({}, False)
        run.before = distributed.from_first(told[0])
        run.keep_sides = distributed.from_first(told[1])
    with distributed.in_turn():
        _read_data(run)
    distributed.same(f"{run.pictures.digest} {run.pictures.pixels.shape}", "data")
    held = f", {len(run.held_out):,} held out" if len(run.held_out) else ""
    yield Message(
        f"{run.pictures.report.layout}: {number_of(len(run.learned_from), 'picture')} to learn from{held}"
    )
    for problem in run.pictures.report.errors:
        yield Message(f"left out: {problem.text}")
    run.given = _given(run)
    state = _last_state(run) if settings.resume else None
    if state is not None and run.first:
        yield from _check_unchanged(run, state.meta)
    yield from _tokenizer_stage(run, resumed=state is not None)
    with distributed.in_turn():
        yield from _find_words(run, resumed=state is not None)
    stage = run.stages[0] if state is None else state.meta["position"]["stage"]
    if run.teacher is not None and stage == "contrastive":
        with distributed.in_turn():
            yield from _be_taught(run, run.teacher)
    model = _make_networks(run)
    if state is None and run.first:
        checkpoint.write_atomic(run.out / "config.toml", _toml(run.config.to_dict()).encode())
        checkpoint.write_atomic(run.out / "tokenizer.model", run.tokenizer.to_bytes())
        checkpoint.write_atomic(run.out / "words.txt", run.words.to_bytes())
        _write_data(run)
        (run.out / "log.jsonl").unlink(missing_ok=True)
    elif state is not None:
        _restore(run, state)
        if run.first:  # what was asked for now holds from here on
            checkpoint.write_atomic(run.out / "config.toml", _toml(run.config.to_dict()).encode())
            if run.keep_sides:
                _write_data(run)
        if run.changed:
            run.saved = -1
        if run.first:
            checkpoint.truncate_log(run.out / "log.jsonl", run.at.step)
            for row in _log_rows(run.out / "log.jsonl"):
                run.advice += run.doctor.feed(row)
        yield Message(f"resumed at step {run.at.step:,} ({run.at.stage} stage)")
        if run.at.stage == run.stages[-1] and run.stage_progress() >= 1.0:
            asked = f"--steps {2 * run.at.step}" if run.config.steps else "--time and a longer span"
            yield Message(f"the run is finished; to train longer: --resume with {asked}")
        yield from _pairs_again(run)
    counts = run.learner.networks.parameter_count()
    yield Message(
        f"{model.size}, {model.resolution} px {'RGBA' if model.image_channels == 4 else 'RGB'}, generator "
        f"{counts['generator'] / 1e6:.1f} M parameters, on {run.device}{_processes()}"
    )
    if settings.tensorboard and run.first:
        run.writer = _tensorboard(run.out)
    with distributed.watched():
        yield from _stages(run)
        distributed.wait()  # the end is reached by all
    if run.at.looked != run.at.step:
        yield from _look(run)
    if run.at.reported != run.at.step or run.at.fresh:
        yield from _report(run)
        run.saved = -1
    if run.saved != run.at.step:
        yield from _save(run)
    # the first `t2i sample` finds its graph made; a trial run does not wait for that
    if run.at.seconds > 120 and run.first:
        with contextlib.suppress(T2IError):  # where it cannot be made, sampling goes through torch
            graphs.bundle_for(model)
    if run.first:
        checkpoint.drop_pairs(run.out)
    figures = {name: value for name, value in run.at.figures.items() if math.isfinite(value)}
    yield Finished(
        run.out,
        run.out / "model.safetensors",
        run.at.step,
        run.at.seconds,
        tuple(run.advice),
        figures,
    )


def _stages(run: _Run) -> Iterator[Event]:
    for index, stage in enumerate(run.stages):
        if run.at.stage and index < run.stages.index(run.at.stage):
            continue
        if stage != run.at.stage:
            run.at.stage, run.at.stage_step, run.at.stage_seconds = stage, 0, 0.0
            run.at.sums.clear()
            run.at.best = -math.inf
            run.learner.begin(stage)
            for tensors in run.learner.tensors(stage).values():
                distributed.take_over(tensors)  # machines that differ may have drifted apart
            run.at.images_before = run.learner.images_before
            yield from _save(run)
        yield StageStarted(stage, index + 2, len(run.stages) + 1, run.stage_progress())
        yield from _stage(run)


def _processes() -> str:
    size = distributed.world().size
    return f", {size} processes" if size > 1 else ""


# -- before the first step ----------------------------------------------------------------------


def _find_teacher(run: _Run) -> None:
    config = run.config
    if config.text_encoder not in BUILTIN and config.teacher_weight > 0:
        run.teacher = load_teacher(
            config.text_encoder, run.device, _trunk_dtype(config.precision, run.device)
        )


def _find_words(run: _Run, *, resumed: bool) -> Iterator[Event]:
    """The captions' words and what others are read as: a resumed run's, else by the teacher and --init."""
    if resumed:
        run.words = Words.load(run.out / "words.txt")
        if run.words:
            return
    captions = [run.pictures.captions[row] for row in run.learned_from]
    near, real = dict[str, str](), list[str]()
    if run.settings.init is not None:
        near = Words.from_bytes(checkpoint.read_reader(run.settings.init)[1]).others
    if run.teacher is not None:
        texts = (text for alternatives in captions for text in alternatives)
        reading = read_words(run.teacher, texts, cache_folder(run.settings.cache))
        real, features = yield from _reading(run, run.teacher, reading, "words")
        near |= nearest(real, features, counted(captions))
    run.words = words_of(captions, near, real)
    read = sum(bool(read) for read in run.words.others.values())
    yield Message(f"words: {len(run.words.known):,} known, {read:,} more are read as one of them")


def _be_taught(run: _Run, teacher: Teacher) -> Iterator[Event]:
    """Let the teacher read the captions, once for this data, saying how far it is."""
    captions = (text for row in run.learned_from for text in run.pictures.captions[row])
    cache, config = cache_folder(run.settings.cache), run.config
    reading = make_lessons(teacher, captions, cache, recolour=config.recolour > 0, seed=config.seed)
    run.lessons = yield from _reading(run, teacher, reading, "captions")
    yield Message(f"{teacher.name} teaches: {len(run.lessons.texts):,} texts")


def _reading(
    run: _Run, teacher: Teacher, reading: Generator[tuple[int, int], None, T], what: str
) -> Generator[Event, None, T]:
    """What comes of a teacher's reading, telling how far it is."""
    told = -math.inf
    while True:
        try:
            done, total = next(reading)
        except StopIteration as end:
            return end.value
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            yield Message(
                f"{teacher.name} reads {what}, once for this data: {done:,} of {total:,} texts"
            )
        if run.settings.stop:
            raise Stopped(
                run.settings.stop.signum, "stopped while the teacher read; nothing was trained yet"
            )


def _read_data(run: _Run) -> None:
    settings, config, init = run.settings, run.config, run.settings.init

    def progress(done: int, total: int) -> None:
        if settings.stop:
            raise Stopped(
                settings.stop.signum, "stopped while pictures were decoded; no step was made"
            )
        if settings.progress is not None:
            settings.progress(done, total)

    run.pictures = data.load(
        settings.data,
        config.resolution,
        settings.reading,
        image_channels=4 if init is None else checkpoint.read_info(init).config.image_channels,
        cache=settings.cache,
        workers=settings.workers,
        progress=progress,
    )
    sides = {sha256: side for sha256, (_, side) in run.before.items()}
    digest = _digest_of(settings.out) if run.before else ""
    run.keep_sides = run.keep_sides or (bool(sides) and digest != run.pictures.digest)
    run.learned_from, run.held_out = run.pictures.split(
        config.val, config.seed, sides if run.keep_sides else None
    )
    run.doctor = Doctor(len(run.learned_from), warm=settings.init is not None)


def _digest_of(out: Path) -> str:
    """The digest of the data that a run was started or last resumed with."""
    try:
        return str(json.loads((out / "data.json").read_bytes())["digest"])
    except (OSError, ValueError, KeyError):
        return ""


def _write_data(run: _Run) -> None:
    pictures = run.pictures
    report = {
        "digest": pictures.digest,
        **pictures.report.to_dict(),
        "kept_sides": run.keep_sides,
        "pictures": changes.rows(
            pictures.names, pictures.hashes, run.learned_from.tolist(), run.held_out.tolist()
        ),
    }
    checkpoint.write_atomic(run.out / "data.json", json.dumps(report).encode())


def _tokenizer_stage(run: _Run, *, resumed: bool) -> Iterator[Event]:
    yield StageStarted("tokenizer", 1, len(run.stages) + 1, 1.0 if resumed else 0.0)
    if run.first:
        if resumed:
            run.tokenizer = Tokenizer.load(run.out / "tokenizer.model")
        else:
            _make_tokenizer(run)
    told = distributed.from_first(run.tokenizer.to_bytes() if run.first else b"")
    if not run.first:
        run.tokenizer = Tokenizer(told)
    yield Message(f"tokenizer: {run.tokenizer.vocab_size:,} pieces")


def _make_tokenizer(run: _Run) -> None:
    settings = run.settings
    if settings.init is not None:
        if settings.tokenizer is not None:
            raise UsageError("--init brings its own tokenizer", "leave --tokenizer out")
        run.tokenizer = Tokenizer(checkpoint.read_reader(settings.init)[0])
    elif settings.tokenizer is not None:
        run.tokenizer = Tokenizer.load(settings.tokenizer)
    else:
        captions = (text for row in run.learned_from for text in run.pictures.captions[row])
        run.tokenizer = train_tokenizer(captions, run.config.vocab_size)


def _make_networks(run: _Run) -> ModelConfig:
    settings, config = run.settings, run.config
    channels = int(run.pictures.pixels.shape[-1])
    torch.manual_seed(config.seed)
    if settings.init is not None:
        loaded = checkpoint.load_model(settings.init)
        model = loaded.config
        if model.resolution != config.resolution:
            raise UsageError(
                f"--init {settings.init}: trained at {model.resolution} px, this run asks for {config.resolution}",
                f"use --resolution {model.resolution}",
            )
        sizes = list(PRESETS)
        if model.size in sizes and sizes.index(config.size) > sizes.index(model.size):
            model = model_config(
                config.size, config.resolution, channels, run.tokenizer.vocab_size, model.text.kind
            )
    else:
        kind = "lstm" if config.text_encoder == "lstm" else "transformer"
        model = model_config(
            config.size, config.resolution, channels, run.tokenizer.vocab_size, kind
        )
        loaded = None
    networks = build(model, discriminator=True)
    if loaded is not None and loaded.config != model:
        grow(loaded.networks, networks, config.seed)
    elif loaded is not None:
        for name, network in loaded.networks.named_children():
            getattr(networks, name).load_state_dict(network.state_dict())
    networks.to(run.device)
    networks.set_trunk_dtype(_trunk_dtype(config.precision, run.device))
    context = model.text.context_length
    run.batches = Batches(
        run.pictures,
        run.learned_from,
        run.tokenizer,
        context_length=context,
        seed=config.seed,
        device=run.device,
        recolour=config.recolour,
        mirror=config.mirror,
        slips=config.slips,
        lessons=run.lessons,
    )
    run.learner = Learner(networks, config, run.batches.tokens([""]))
    if loaded is not None:
        run.learner.start_average()
        # weights that a contrastive stage ended with have encoders that learned and a generator that did not
        run.learner.warm = loaded.info.metadata.get("t2i.stage") != "contrastive"
    if settings.distill_from is not None:
        _set_flow(run.learner, settings.distill_from)
    if settings.prompts:
        run.prompts = settings.prompts[:64]
    else:
        rows = run.held_out if len(run.held_out) >= GRID else run.learned_from
        rows = rows[np.linspace(0, len(rows) - 1, min(GRID, len(rows))).astype(int)]
        run.prompts = [run.pictures.captions[row][0] for row in rows]
    return model


def _set_flow(learner: Learner, path: Path) -> None:
    """Give a learner the generator of a flow's weights to distill.

    Raises:
        UsageError: it is of another architecture, or reads texts in another way.
    """
    told, networks = checkpoint.load_model(path), learner.networks
    mine = {key: value.cpu() for key, value in networks.text_encoder.state_dict().items()}
    theirs = told.networks.text_encoder.state_dict()
    if told.config != networks.config or not all(
        torch.equal(theirs[key], value) for key, value in mine.items()
    ):
        raise UsageError(
            f"--distill-from {path}: its size or its text encoder is not that of --init",
            "both have to come of one contrastive stage",
        )
    learner.flow = copy.deepcopy(learner.average)
    learner.flow.load_state_dict(told.networks.generator.state_dict())


def _facts(run: _Run) -> dict[str, Any]:
    """What may not change between a run's start and its resume."""
    facts: dict[str, Any] = {
        k: v for k, v in run.config.to_dict().items() if k not in FREE_TO_CHANGE
    }
    facts |= {"data": run.pictures.digest, "device": run.device.type}
    weight = facts.pop("teacher_weight")  # of no consequence without a teacher
    if run.teacher is not None:
        facts |= {"teacher": run.teacher.digest, "teacher_weight": weight}
    if run.device.type == "cpu":
        facts["threads"] = torch.get_num_threads()
    return facts | run.given


def _given(run: _Run) -> dict[str, Any]:
    """What a run was given beside its config, as far as it changes what is learned or logged."""
    settings = run.settings
    init, flow = settings.init, settings.distill_from
    tokenizer, prompts = settings.tokenizer, settings.prompts
    return {
        "init": None if init is None else checkpoint.read_info(init).hash,
        "distill_from": None if flow is None else checkpoint.read_info(flow).hash,
        "tokenizer": None
        if tokenizer is None
        else sha256(Tokenizer.load(tokenizer).to_bytes()).hexdigest(),
        "prompts": None if prompts is None else sha256("\n".join(prompts).encode()).hexdigest(),
        "precision used": str(_trunk_dtype(run.config.precision, run.device)).removeprefix(
            "torch."
        ),
        "torch": torch.__version__,
        "processes": distributed.world().size,
    }


def _check_unchanged(run: _Run, meta: dict[str, Any]) -> Iterator[Event]:
    # a setting that a run of an older version did not know had what is the default now
    # (and of what it was given beside its config, nothing is known)
    before, now = TrainConfig().to_dict() | meta["facts"], _facts(run)
    now = {key: value for key, value in now.items() if key in before or key not in run.given}
    before = {key: value for key, value in before.items() if key in now}
    changed = {
        key: (before.get(key), now.get(key))
        for key in (*before, *now)
        if before.get(key) != now.get(key)
    }
    threads = changed.pop("threads", None)
    told_only = [(key, changed.pop(key)) for key in ANNOUNCED if key in changed]
    if run.given["tokenizer"] is None:  # the run's own is used
        changed.pop("tokenizer", None)
    data_changed = changed.pop("data", None) is not None
    budget = {key: changed.pop(key) for key in changes.BUDGET if key in changed}
    run.changed = data_changed or bool(budget)
    if changed:
        told, mend = changes.refusal(changed)
        raise UsageError(f"{run.out}: this run was started with other settings: {told}", mend)
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


def _last_state(run: _Run) -> checkpoint.RunState | None:
    return distributed.state_from_first(checkpoint.load_state(run.out) if run.first else None)


def _restore(run: _Run, state: checkpoint.RunState) -> None:
    meta = dict(state.meta)
    known = {item.name for item in dataclasses.fields(_Position)}
    try:
        run.at = _Position(
            **{key: value for key, value in meta["position"].items() if key in known}
        )
        run.learner.images, run.learner.images_before = run.at.images, run.at.images_before
        run.learner.load_tensors(state.files)
    except (KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{state.path}: this state does not fit the run: {error}", "start again with -f"
        ) from error
    run.last_report = run.last_save = run.last_sample = time.monotonic()
    run.saved = run.at.step


def _pairs_again(run: _Run) -> Iterator[Event]:
    """The pairs that a run had when it was saved: those that were kept, and what is missing drawn again."""
    pairs, size = run.learner.pairs, run.batch_size()
    pairs.keep(run.at.pairs)
    missing = run.at.pairs[len(pairs) :]
    ended = run.at.stage == run.stages[-1] and run.stage_progress() >= 1.0
    if run.at.stage not in ("distill", "adversarial") or ended:
        return
    told = False
    for index, position in enumerate(missing):
        batch = run.batches.get("distill", position, size)
        kept = None
        if _keeps_pairs(run):
            kept = checkpoint.kept_pairs(run.out, position, batch.tokens, tuple(batch.images.shape))
        if kept is not None:
            pairs.put(position, batch, kept.to(run.device))
        else:
            if not told:
                left = (len(missing) - index) * size
                yield Message(f"drawing up to {number_of(left, 'picture')} again to learn from")
                told = True
            if run.learner.make_pairs(position, batch):
                _keep_newest_pairs(run)
        if stop := run.agree():
            _end(run, stop)


def _keeps_pairs(run: _Run) -> bool:
    """Whether pairs are kept for a resume: on CUDA drawing waits for no disk; of several processes one alone writes."""
    return run.device.type != "cuda" and distributed.world().size == 1


def _keep_newest_pairs(run: _Run) -> None:
    if _keeps_pairs(run):
        chunk = run.learner.pairs.newest
        checkpoint.keep_pairs(run.out, chunk.position, chunk.tokens, chunk.pictures)


def _end(run: _Run, stop: StopRequest) -> NoReturn:
    """Stop where a signal asked for it and the state is saved."""
    distributed.wait()  # torchrun ends all when the first of them has ended
    raise Stopped(stop.signum, f"stopped at step {run.at.step:,}; saved, go on with --resume")


# -- steps ----------------------------------------------------------------------------------------


def _stage(run: _Run) -> Iterator[Event]:
    in_a_row = 0
    run.clock = time.monotonic()
    while run.stage_progress() < 1.0:
        at = run.at
        start = time.monotonic()
        size = run.batch_size()
        # after a return to a good state the same step is fed other pictures
        position = at.stage_step + 1_000_003 * at.returns
        batch = run.batches.get(at.stage, position, size)
        result = run.learner.step(at.stage, batch, position, run.stage_progress())
        taken = time.monotonic() - start
        at.step, at.stage_step = at.step + 1, at.stage_step + 1
        run.tick()
        at.images, at.images_before = run.learner.images, run.learner.images_before
        positions = run.learner.pairs.positions
        if positions != at.pairs:
            at.pairs = positions
            _keep_newest_pairs(run)
        run.speed = [*run.speed[-49:], (taken, size)]
        for name, value in distributed.mean(result.figures).items():
            number = float(value)
            if math.isfinite(number):
                total, count = at.sums.get(name, [0.0, 0])
                at.sums[name] = [total + number, count + 1]
        at.skipped += result.skipped
        in_a_row = in_a_row + 1 if result.skipped else 0
        if in_a_row >= SKIPS_BEFORE_GOING_BACK:
            yield from _go_back(run)
            in_a_row = 0
            continue
        now = time.monotonic()
        if _due(run, run.last_sample, run.config.sample_every, now):
            yield from _look(run)
        if _report_due(run, now):
            yield from _report(run)
        run.tick()
        stop = run.agree()
        if stop or stop.save_now or now - run.last_save >= run.config.save_every:
            yield from _save(run)
            run.settings.stop.save_now = False
        if stop:
            _end(run, stop)


def _due(run: _Run, last: float, every: float, now: float) -> bool:
    """Whether it is time: by the clock, or in a run of so many steps at each quarter, so that a log repeats itself."""
    if run.config.steps:
        return run.at.step % max(run.config.steps // 4, 1) == 0
    # a short run is looked at too, and looking takes a twentieth of the time at most
    return now - last >= max(min(every, run.config.time / 6), 20 * run.look_seconds())


def _report_due(run: _Run, now: float) -> bool:
    if run.config.steps:
        return run.at.step % max(run.config.steps // 200, 1) == 0
    return now - run.last_report >= run.config.report_every


def _go_back(run: _Run) -> Iterator[Event]:
    """Return to the last good state, with other batches ahead; end the run after a few returns."""
    returns = run.at.returns + 1
    state = _last_state(run)
    if state is None or returns > MOST_RETURNS:
        raise TrainingError(
            f"losses or gradients were not finite at step {run.at.step:,}, {returns - 1} times over; "
            "the weights of the last "
            f"good state are kept in {run.out}",
            "lower --lr, or give --precision fp32",
        )
    skipped = run.at.skipped
    _restore(run, state)
    yield from _pairs_again(run)
    run.at.returns, run.at.skipped = returns, skipped
    run.at.sums.clear()
    yield Message(
        f"numbers were not finite {SKIPS_BEFORE_GOING_BACK} times in a row: back to step {run.at.step:,}, other batches"
    )


def _report(run: _Run) -> Iterator[Event]:
    if not run.first:
        return
    at = run.at
    now = time.monotonic()
    row: dict[str, Any] = {
        "step": at.step,
        "stage": at.stage,
        "stage_progress": round(run.stage_progress(), 6),
    }
    row |= {"progress": round(run.progress(), 6), "images": at.images}
    row |= {name: total / count for name, (total, count) in at.sums.items() if count}
    if at.stage == "adversarial" and len(run.held_out) >= 8:  # fewer say nothing
        held_out, seen = (_some(rows, at.step) for rows in (run.held_out, run.learned_from))
        row |= run.learner.judge(run.batches.of(held_out), run.batches.of(seen))
    if "penalty" in row and row.get("d_loss"):
        row["penalty_ratio"] = row["penalty"] / row["d_loss"]
    row |= {"skipped": at.skipped, **at.fresh}
    at.fresh, at.reported = {}, at.step
    at.sums.clear()
    for advice in run.doctor.feed(row):
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
    run.last_report = now
    yield Report(row)


def _some(rows: np.ndarray, step: int) -> np.ndarray:
    """32 of some rows, or all; others at each step, so that the median of reports is that of many pictures."""
    return np.random.RandomState(seed_for("judged", step) % 2**32).permutation(rows)[:32]


def _eta(run: _Run) -> float:
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
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10


# -- looking and saving ---------------------------------------------------------------------------


@torch.no_grad()
def _pictures(run: _Run, captions: list[str], seeds: list[int]) -> Tensor:
    """Pictures of the averaged generator, in the way that the stage leaves it to be used: fp32 (b, c, h, w)."""
    learner, parts = run.learner, []
    for start in range(0, len(captions), 32):
        text = learner.encode(*run.batches.tokens(captions[start : start + 32]))
        config = learner.networks.config
        noise = torch.from_numpy(
            noise_batch(seeds[start : start + 32], config.image_channels, config.resolution)
        )
        noise = noise.to(run.device)
        if run.at.stage == "flow":
            parts.append(
                many_steps(learner.average, noise, text, learner.null(len(noise)), LOOK_STEPS, 2.0)
            )
        else:
            parts.append(one_step(learner.average, noise, text))
    return torch.cat(parts)


@torch.no_grad()
def _look(run: _Run) -> Iterator[Event]:
    """Look at held-out pictures: figures into the next report, a grid of samples, and the best weights so far."""
    if not run.first:
        return
    learner, at = run.learner, run.at
    run.last_sample, at.looked = time.monotonic(), at.step
    rows = run.held_out if len(run.held_out) >= 20 else run.learned_from
    rows = rows[np.linspace(0, len(rows) - 1, min(HELD_OUT, len(rows))).astype(int)]
    real = run.batches.of(rows)
    text: TextEncoding = learner.encode(real.tokens, real.mask)
    pool = min(100, len(rows))

    def features_of(pictures: Tensor) -> Tensor:
        return (
            torch.cat([learner.networks.image_encoder(part) for part in pictures.split(64)])
            .float()
            .cpu()
        )

    def retrieval(features: Tensor) -> float:
        return metrics.retrieval_at_k(
            features, text.text_features.float().cpu(), real.captions, pool
        )

    real_features = features_of(real.images)
    at.fresh |= {"retrieval_real": retrieval(real_features), "retrieval_chance": 1 / pool}
    if at.stage == "contrastive":
        at.fresh["retrieval"] = at.fresh["retrieval_real"]
        at.figures = dict(at.fresh)
        return
    drawn = features_of(_pictures(run, real.captions, list(range(len(rows)))))
    at.fresh["retrieval"] = retrieval(drawn)
    if run.known is None:  # the image encoder no longer changes
        count = min(KNOWN, len(run.learned_from))
        known = run.learned_from[np.linspace(0, len(run.learned_from) - 1, count).astype(int)]
        parts = np.array_split(known, count // 64 + 1)
        run.known = torch.cat([features_of(run.batches.of(part).images) for part in parts])
    held_out = real_features if len(run.held_out) >= 20 else None
    nearest = (
        metrics.memorisation(run.known, held_out, drawn).ratio.value
        if len(run.known) > 1
        else math.nan
    )
    if math.isfinite(nearest):
        at.fresh["nearest"] = nearest
    some = run.prompts[:6]
    eight = _pictures(
        run, [prompt for prompt in some for _ in range(8)], list(range(8)) * len(some)
    )
    features = learner.networks.image_encoder(eight).float().view(len(some), 8, -1)
    within = torch.stack([torch.pdist(group).mean() for group in features]).mean()
    between = torch.pdist(features[:, 0]).mean() if len(some) > 1 else within
    at.fresh["diversity"] = float(within / between.clamp(min=1e-6))
    at.figures = dict(at.fresh)
    grid = to_pixels(
        _pictures(run, run.prompts, list(range(len(run.prompts)))).float().cpu().numpy()
    )
    path = run.out / "samples" / f"{at.step:08}.png"
    checkpoint.write_atomic(path, images.encode(images.grid(grid, run.prompts, columns=8)))
    yield Sampled(path, at.step)
    if at.stage == run.stages[-1] and at.fresh["retrieval"] >= at.best:
        at.best = at.fresh["retrieval"]
        _save_model(run, run.out / "best.safetensors")


def _save(run: _Run) -> Iterator[Event]:
    if not run.first:
        return
    meta = {
        "facts": _facts(run),
        "position": dataclasses.asdict(run.at),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    checkpoint.save_state(run.out, run.at.step, run.learner.tensors(run.at.stage), meta)
    _save_model(run, run.out / "model.safetensors")
    run.last_save, run.saved = time.monotonic(), run.at.step
    yield Saved(run.out, run.at.step)


def _save_model(run: _Run, path: Path) -> None:
    networks: Networks = run.learner.networks
    checkpoint.save_model(
        path,
        {
            "text_encoder": networks.text_encoder.state_dict(),
            "image_encoder": networks.image_encoder.state_dict(),
            "generator": run.learner.average.state_dict(),
        },
        networks.config,
        run.tokenizer.to_bytes(),
        words=run.words.to_bytes(),
        title=run.out.name,
        description=f"trained by t2i on {run.settings.data.name}",
        extra={
            "t2i.stage": run.at.stage,
            "t2i.step": str(run.at.step),
            "t2i.images": str(run.at.images),
            "t2i.seconds": str(round(run.at.seconds)),
            "t2i.steps": "20" if run.at.stage == "flow" else "1",
            "t2i.data": run.pictures.digest,
            "t2i.opaque": str(int(run.pictures.opaque)),
            "t2i.train_config": json.dumps(_public(run.config)),
        },
    )


def _public(config: TrainConfig) -> dict[str, Any]:
    """The config as a weights file tells it to anyone: of a teacher's folder, the name alone."""
    values = config.to_dict()
    if config.text_encoder not in BUILTIN and not config.text_encoder.startswith("hf:"):
        values["text_encoder"] = Path(config.text_encoder).name
    return values


def _log_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "--tensorboard needs the tensorboard package", 'pip install "t2i-cli[tensorboard]"'
        ) from error
    return SummaryWriter(str(out / "tensorboard"))


def _toml(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
