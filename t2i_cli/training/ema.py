"""The running average of a network's weights, which is what pictures are made with."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ADVERSARIAL_SHARE", "SHARE", "ema_decay", "ema_update"]

SHARE = 0.05  # half-life of the average, of a stage's pictures so far
# of the adversarial stage's: its steps go round what they learn, and the mean of far ones is nearer to it
ADVERSARIAL_SHARE = 0.25


def ema_decay(batch_size: int, images: int, half_life: float, share: float = SHARE) -> float:
    """Weight of the old average at a step: its half-life in pictures is the lesser of two.

    Args:
        batch_size: pictures in this step.
        images: pictures seen so far in this stage, this step's among them.
        half_life: in pictures, at most.
        share: of the pictures seen so far, at most (Karras et al. 2022, ramp-up).
    """
    return 0.5 ** (batch_size / max(min(half_life, share * images), 1e-8))


@torch.no_grad()
def ema_update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Average <- decay average + (1 - decay) network, parameter by parameter; decay 0 copies."""
    lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
    lerp(list(average.parameters()), list(network.parameters()), 1 - decay)
