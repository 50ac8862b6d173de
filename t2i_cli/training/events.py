"""What a training run tells while it works: the core yields these, the command line draws them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Advice", "Event", "Finished", "Message", "Report", "Sampled", "Saved", "StageStarted"]


@dataclass(frozen=True)
class Message:
    """One plain sentence for the person who watches (data found, resumed at step 40, ...)."""

    text: str


@dataclass(frozen=True)
class StageStarted:
    """A stage begins or goes on."""

    stage: str  # tokenizer, contrastive, autoencoder, flow, gan
    index: int  # 1-based position among the stages of this run
    stages: int  # how many stages this run has
    progress: float  # 0..1, where the stage goes on from


@dataclass(frozen=True)
class Report:
    """A row of `log.jsonl`: step, stage, progress, images, images_per_second, memory_mb, eta_s, losses, ..."""

    row: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Saved:
    """The run's state and weights are on disk."""

    path: Path
    step: int


@dataclass(frozen=True)
class Sampled:
    """A grid of pictures was drawn."""

    path: Path
    step: int


@dataclass(frozen=True)
class Advice:
    """A sign of trouble and what to do about it."""

    signal: str  # short name of the signal
    text: str  # one plain sentence


@dataclass(frozen=True)
class Finished:
    """The run's budget is spent."""

    path: Path  # the run folder
    model: Path  # model.safetensors
    steps: int
    seconds: float  # of training, over all resumes
    advice: tuple[Advice, ...] = ()
    figures: dict[str, float] = field(
        default_factory=dict[str, float]
    )  # e.g. retrieval on held-out pictures


Event = Message | StageStarted | Report | Saved | Sampled | Advice | Finished
