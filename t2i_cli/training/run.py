"""What a training run holds while it works: its settings, its place in the budget, its data and its stages."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2i_cli.config import TrainConfig
from t2i_cli.data import CaptionedImages, ReadOptions
from t2i_cli.signals import StopRequest
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.training import changes, distributed
from t2i_cli.training.diagnostics import Doctor
from t2i_cli.training.events import Advice
from t2i_cli.training.stages import STAGES, Material, Stage
from t2i_cli.training.teacher import Lessons, Teacher
from t2i_cli.words import Words

__all__ = ["Position", "Run", "TrainSettings", "resolved", "stage_shares", "trunk_dtype"]


@dataclass
class TrainSettings:
    """What a run is asked for."""

    data: Path
    out: Path
    config: TrainConfig = field(default_factory=TrainConfig)
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    init: Path | None = None  # weights to start from
    tokenizer: Path | None = None
    prompts: list[str] | None = None  # of the sample grids; held-out captions where there are none
    resume: bool = False  # go on if there is something, else start
    force: bool = False  # throw away what is there
    reading: ReadOptions = field(default_factory=ReadOptions)  # how the data is read
    attributes: tuple[str, ...] | None = (
        None  # columns that are conditions; None: style, where it is there
    )
    defaults: tuple[str, ...] = ()  # such as style=fluent
    tensorboard: bool = False
    workers: int = 0  # threads that decode; 0: as many as there are processors
    cache: Path | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    progress: Callable[[str, int, int], None] | None = None  # what is prepared, done, total


@dataclass
class Position:
    """Where a run stands: what is saved as a run state's meta, with the tensors."""

    stage: str = ""
    stage_step: int = 0
    stage_seconds: float = 0.0
    step: int = 0  # optimizer steps over all stages
    seconds: float = 0.0  # of training over all stages and resumes
    images: int = 0  # that were learned from, over all stages
    skipped: int = 0  # steps left out so far because a number was not finite
    returns: int = 0  # to the last good state
    best: float = -math.inf
    sums: dict[str, list[float]] = field(
        default_factory=dict[str, list[float]]
    )  # figures since the last report: sum, count
    # figures of the last preview: those that no report has told yet, and all
    fresh: dict[str, float] = field(default_factory=dict[str, float])
    figures: dict[str, float] = field(default_factory=dict[str, float])
    reconstruction: str = ""  # mean error of the autoencoder, where it is known
    previewed: int = -1  # step of the last preview
    reported: int = -1  # step of the last report


class Run:
    """Everything a run holds while it works."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.first = distributed.world().first  # of the processes that train together
        config = resolved(settings, device)
        self.share_out(dataclasses.replace(config, **distributed.from_first(config.to_dict())))
        self.out = settings.out
        self.at = Position()
        self.given: dict[str, Any] = {}
        self.before: changes.Pictures = {}  # of a run that is resumed
        self.keep_sides = False  # the pictures have changed since the run was started
        self.once_trained: set[str] = set()  # SHA-256 of pictures that are no longer there
        self.changed = False  # what it is resumed with: the pictures or the budget
        self.pictures: CaptionedImages
        self.tokenizer: Tokenizer
        self.words: Words
        self.teacher: Teacher | None = None
        self.lessons: Lessons | None = None
        self.material: Material
        self.stage: Stage
        self.learned_from: np.ndarray
        self.held_out: np.ndarray
        self.prompts: list[str]
        self.diagnostics: Doctor
        self.known: Tensor | None = (
            None  # features of training pictures, that drawn ones are compared with
        )
        self.warm = settings.init is not None  # whether it started from trained weights
        self.inherited: list[dict[str, Any]] = []  # records of the splits that those came of
        self.advice: list[Advice] = []
        self.begun = False  # whether steps are made, so that how the run ends is worth telling
        self.writer: Any = None
        self.clock = time.monotonic()
        self.saved = -1  # step of the last save
        self.last_report = self.last_save = self.last_preview = time.monotonic()
        self.preview_seconds = 0.0  # that the last preview took
        self.speed: list[tuple[float, int]] = []  # seconds and pictures of the last steps

    def share_out(self, config: TrainConfig) -> None:
        """Take a config, and share the budget out among its stages."""
        self.config = config
        self.shares = stage_shares(config)
        self.stages = list(self.shares)

    def tick(self) -> None:
        """Count the time since the last tick, previews and reports among it: what is asked for is time by the clock."""
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

    def share_before(self, stage: str) -> float:
        """Of all stages before one."""
        return sum(self.shares[name] for name in self.stages[: self.stages.index(stage)])

    def stage_steps(self, stage: str) -> int:
        """Steps of a stage where steps rule: those of all stages together are the run's."""
        before = self.share_before(stage)
        start, end = (
            round(self.config.steps * min(done, 1.0))
            for done in (before, before + self.shares[stage])
        )
        return end - start

    def stage_progress(self) -> float:
        """How much of the stage is done, 0 to 1."""
        # the last one has what is left: a run may be asked for more than at first
        last = self.at.stage == self.stages[-1]
        if self.config.steps:
            before = self.at.step - self.at.stage_step
            steps = self.config.steps - before if last else self.stage_steps(self.at.stage)
            return min(1.0, self.at.stage_step / steps) if steps > 0 else 1.0
        seconds = self.config.time * self.shares[self.at.stage]
        if last:
            seconds = max(seconds, self.config.time - (self.at.seconds - self.at.stage_seconds))
        return min(1.0, self.at.stage_seconds / seconds)

    def progress(self) -> float:
        """How much of the run is done, 0 to 1."""
        return self.share_before(self.at.stage) + self.shares[self.at.stage] * self.stage_progress()


def stage_shares(config: TrainConfig) -> dict[str, float]:
    """The stages of a run, in order, and each one's share of the budget; they add up to 1.

    With the objective gan the flow's share is the gan stage's.
    """
    shares = {name: float(getattr(config, name)) for name in STAGES}
    if config.objective == "gan":
        shares["gan"], shares["flow"] = shares["gan"] or shares["flow"], 0.0
    whole = sum(shares.values()) or 1.0
    return {name: share / whole for name, share in shares.items() if share > 0}


def resolved(settings: TrainSettings, device: torch.device) -> TrainConfig:
    """The config with what was left to the machine decided."""
    config = settings.config
    batch_size = config.batch_size or (256 if device.type == "cuda" else 64)
    return dataclasses.replace(
        config,
        batch_size=batch_size,
        contrastive_batch_size=config.contrastive_batch_size or 2 * batch_size,
        autoencoder_batch_size=config.autoencoder_batch_size or max(batch_size // 2, 1),
    )


def trunk_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype in which networks compute while they learn."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32
