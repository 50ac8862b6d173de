"""What the steps of all stages share: schedules, gradients that are checked before they are used, and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from t2i_cli.training import distributed

__all__ = [
    "StepResult",
    "backward",
    "cosine",
    "decayed",
    "different",
    "normal",
    "same_caption",
    "set_lr",
    "take",
    "warm_cosine",
]


@dataclass
class StepResult:
    """What a step found out."""

    figures: dict[str, Tensor | float] = field(default_factory=dict[str, "Tensor | float"])
    skipped: bool = False  # a loss or a gradient was not finite, and nothing was changed


def backward(
    optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float = math.inf
) -> Tensor | None:
    """Gradients of a loss for an optimizer's parameters, averaged over the processes and clipped. No weight changes.

    Args:
        optimizer: whose parameters are meant.
        loss: of this process, a number.
        max_norm: that the gradient is brought to where it is longer.

    Returns:
        The gradient's norm before clipping, or None where it or the loss is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = _with_gradient(optimizer)
    mean_loss = distributed.average(parameters, loss.detach())
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.detach() if math.isfinite(float(norm + mean_loss)) else None


def take(optimizer: torch.optim.Optimizer, *, measure: bool = False) -> dict[str, Tensor]:
    """Take an optimizer's step.

    Returns:
        With `measure`, `update`: how far each matrix moved as a share of its own norm, the median over all of them.
    """
    matrices = [p for p in _with_gradient(optimizer) if p.dim() > 1] if measure else []
    before = [p.detach().clone() for p in matrices]
    optimizer.step()
    if not matrices:
        return {}
    moved = [
        (p.detach() - was).norm() / was.norm().clamp(min=1e-6)
        for p, was in zip(matrices, before, strict=True)
    ]
    return {"update": torch.stack(moved).median()}


def _with_gradient(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def decayed(parameters: Iterable[nn.Parameter]) -> list[dict[str, object]]:
    """Parameter groups: weight decay for matrices, none for scales, shifts and temperatures."""
    everything = list(parameters)
    return [
        {"params": [p for p in everything if p.dim() > 1]},
        {"params": [p for p in everything if p.dim() <= 1], "weight_decay": 0.0},
    ]


def same_caption(text: Tensor) -> Tensor:
    """Bool (b, b), true where two rows of int64 (b,) have the same caption."""
    return text[:, None] == text[None, :]


def different(text: Tensor) -> Tensor:
    """For each row of int64 (b,) the next row with another caption where there is one: int64 (b,)."""
    b = len(text)
    best = torch.arange(b, device=text.device).roll(-1)
    for shift in range(2, min(b, 8)):
        candidate = torch.arange(b, device=text.device).roll(-shift)
        best = torch.where(text[best] == text, candidate, best)
    return best


def normal(shape: torch.Size | tuple[int, ...], random: torch.Generator) -> Tensor:
    """Standard normal, fp32 (b, c, h, w), channels-last as feature maps are."""
    b, c, h, w = shape
    return distributed.normal(random, b, h, w, c).permute(0, 3, 1, 2)


def cosine(progress: float) -> float:
    """1 at the start, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def warm_cosine(progress: float, warm: float, end: float) -> float:
    """Up from 0 over the first ``warm`` of a stage, then a cosine down to ``end``."""
    if progress < warm:
        return max(progress / warm, 0.02)
    return end + (1 - end) * cosine((progress - warm) / (1 - warm))


def set_lr(
    optimizer: torch.optim.Optimizer, lr: float, betas: tuple[float, float] | None = None
) -> None:
    """Set the learning rate of every parameter group, and Adam's betas where given."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if betas:
            group["betas"] = betas
