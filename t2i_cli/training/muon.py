"""Muon: steps of equal size in all directions of a weight matrix (Jordan et al. 2024, "Muon").

`torch.optim.Muon` takes matrices alone. Most weights here are kernels (c_out, c_in, k, k), which are matrices
(c_out, c_in k k) to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from t2i_cli.models import Generator

__all__ = ["Muon", "for_generator", "orthogonal"]

MOMENTUM = 0.95
# coefficients of five steps, each the best for what the one before leaves: You 2025, in modded-nanogpt
_STEPS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


@torch.no_grad()
def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest matrices with orthonormal rows or columns: (b, m, n) -> (b, m, n), singular values near 1.

    In the dtype of what it is given; bf16 will do. Newton and Schulz's iteration, with coefficients that need few steps
    and end within about 0.1 of 1.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in _STEPS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices and kernels, AdamW for everything else, as one optimizer.

    Args:
        matrices: parameters of two dimensions or more; the first is a matrix's rows.
        rest: all others.
        lr: of AdamW, and of Muon, whose steps have the size of AdamW's at the same rate (Liu et al. 2025, equation 4).
        times: factor on Muon's.
        dtype: in which Muon computes.
        betas, weight_decay, fused: of AdamW; the decay is Muon's too.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter],
        *,
        lr: float,
        times: float = 1.0,
        dtype: torch.dtype = torch.bfloat16,
        betas: tuple[float, float],
        weight_decay: float,
        fused: bool,
    ) -> None:
        self._rest = torch.optim.AdamW(
            rest, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused
        )
        super().__init__(
            matrices, {"lr": lr, "times": times, "dtype": dtype, "weight_decay": weight_decay}
        )
        self.param_groups.extend(self._rest.param_groups)
        self._share()

    def _share(self) -> None:
        """The inner optimizer works on the outer one's groups and state."""
        self._rest.param_groups, self._rest.state = self.param_groups[1:], self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of both."""
        assert closure is None
        group = self.param_groups[0]
        lr = group["lr"] * group["times"]
        # by shape: fewer, larger products
        alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                alike[p.shape].append(p)
        for shape, parameters in alike.items():
            ahead: list[Tensor] = []
            for p in parameters:
                assert p.grad is not None
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
                ahead.append(p.grad.lerp(momentum, MOMENTUM).flatten(1))  # Nesterov's
            steps = orthogonal(torch.stack(ahead).to(group["dtype"]))
            size = 0.2 * max(steps.shape[1:]) ** 0.5
            for p, step in zip(parameters, steps, strict=True):
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(step.view(shape).to(p.dtype), alpha=-lr * size)
        self._rest.step()


def for_generator(generator: Generator, *, lr: float, **rest: Any) -> Muon:
    """Muon for the matrices between a generator's input and output, AdamW for its ends, its style and its biases."""
    ends = (
        generator.conv_in,
        generator.conv_out,
        generator.modulation,
        generator.style_level,
        generator.style_text,
    )
    outside = {id(p) for module in ends for p in module.parameters()}
    inside = [p for p in generator.parameters() if p.dim() > 1 and id(p) not in outside]
    within = {id(p) for p in inside}
    return Muon(
        inside,
        [p for p in generator.parameters() if id(p) not in within],
        lr=lr,
        dtype=generator.trunk_dtype,
        **rest,
    )
