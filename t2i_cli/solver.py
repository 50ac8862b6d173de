"""From noise to latents along the flow: the noise levels of the steps, and the step itself. Arrays or tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

__all__ = ["DEFAULT_GUIDANCE", "DEFAULT_STEPS", "GUIDED_ABOVE", "MAX_STEPS", "levels", "solve"]

DEFAULT_STEPS = 8
DEFAULT_GUIDANCE = 3.0
MAX_STEPS = 1000
GUIDED_ABOVE = (
    0.2  # noise level; below it guidance only overstates what is there (Kynkäänniemi et al. 2024)
)
Array = TypeVar("Array")


def levels(steps: int, start: float = 1.0) -> list[float]:
    """Noise levels from `start` down to 0, one more than there are steps.

    >>> levels(4)
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return [start * (steps - at) / steps for at in range(steps + 1)]


def solve(
    velocity: Callable[[Array, float], Array], noise: Array, steps: int, start: float = 1.0
) -> Array:
    """Integrate dz/ds = v(z, s) from s = `start` to 0, starting at z = `noise`: the flow's own way back.

    From the second step on the clean latents that a step foresees are carried on by half of their last change: the
    two-step rule of DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), at the cost of one evaluation a step.

    Args:
        velocity: of latents at a noise level, n - z.
        noise: z at `start`, any shape.
        steps: 1 or more.
        start: noise level, 0 < start <= 1.

    Returns:
        Clean latents, of the shape of `noise`.
    """
    z = noise
    before: Array | None = None
    for now, then in itertools.pairwise(levels(steps, start)):
        clean = z - now * velocity(z, now)  # pyright: ignore[reportOperatorIssue]
        ahead = clean if before is None else clean + 0.5 * (clean - before)  # pyright: ignore[reportOperatorIssue]
        before = clean
        if then == 0.0:
            return clean
        z = z + (then - now) / now * (z - ahead)  # pyright: ignore[reportOperatorIssue]
    return z
