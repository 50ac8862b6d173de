"""Muon: what it makes of a gradient, what it leaves to AdamW, and that a run goes on from its state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from t2i_cli.models import build
from t2i_cli.training.muon import MOMENTUM, Muon, for_generator, orthogonal
from tests.toys import toy_config

REST = {"betas": (0.9, 0.99), "weight_decay": 0.0, "fused": True}


@pytest.mark.parametrize("shape", [(64, 576), (128, 64), (8, 8)])
def test_all_directions_are_made_equal(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) * torch.logspace(-2, 0, shape[1])
    found, again = orthogonal(torch.stack([matrix, 3 * matrix])).float()
    assert torch.allclose(found, again, atol=0.05)  # each by itself
    values = torch.linalg.svdvals(found)
    assert found.shape == shape
    assert values.max() < 1.2
    assert values.median() > 0.8
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_a_step_has_the_size_of_adams_in_every_kernel() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(32, 16, 3, 3).to(memory_format=torch.channels_last))
    bias = nn.Parameter(torch.zeros(32))
    optimizer = Muon([kernel], [bias], lr=1e-2, times=2.0, **REST)
    before = kernel.detach().clone()
    for scale in (1e-6, 1e3):  # whatever the gradient's own size
        kernel.grad, bias.grad = scale * torch.randn_like(kernel), torch.ones(32)
        optimizer.step()
        size = (kernel.detach() - before).square().mean().sqrt() / 2e-2
        assert 0.1 < size < 0.3  # Liu et al. 2025: 0.2
        before = kernel.detach().clone()
    assert torch.allclose(bias.detach(), torch.full((32,), -2e-2), rtol=0.01)
    assert optimizer.state[kernel]["momentum"].shape == kernel.shape
    kernel.grad = None
    optimizer.step()
    assert torch.equal(kernel, before)


def test_decay_pulls_matrices_to_nothing() -> None:
    kernel = nn.Parameter(torch.ones(4, 4))
    rest = nn.Parameter(torch.zeros(1))
    optimizer = Muon([kernel], [rest], lr=0.1, **{**REST, "weight_decay": 0.5})
    kernel.grad = torch.zeros(4, 4)
    optimizer.step()
    assert torch.allclose(kernel.detach(), torch.full((4, 4), 1 - 0.1 * 0.5))


def test_momentum_looks_ahead() -> None:
    kernel = nn.Parameter(torch.zeros(2, 2))
    optimizer = Muon([kernel], [nn.Parameter(torch.zeros(1))], lr=1.0, **REST)
    kernel.grad = torch.eye(2)
    optimizer.step()
    assert torch.allclose(optimizer.state[kernel]["momentum"], torch.eye(2) * (1 - MOMENTUM))


def test_a_generators_ends_and_style_are_left_to_adam() -> None:
    generator = build(toy_config()).generator
    optimizer = for_generator(generator, lr=1e-3, **REST)
    matrices, rest = (group["params"] for group in optimizer.param_groups)
    assert {id(p) for p in (*matrices, *rest)} == {id(p) for p in generator.parameters()}
    assert len(matrices) + len(rest) == len(list(generator.parameters()))
    assert all(p.dim() > 1 for p in matrices)
    names = {id(p): name for name, p in generator.named_parameters()}
    outside = {names[id(p)].split(".")[0] for p in rest if p.dim() > 1}
    assert outside == {"conv_in", "conv_out", "modulation", "style_level", "style_text"}


def test_a_run_goes_on_from_its_state() -> None:
    generator = build(toy_config()).generator

    def grads(module: nn.Module, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=random)

    first = for_generator(generator, lr=1e-3, **REST)
    grads(generator, 0)
    first.step()
    other = copy.deepcopy(generator)
    second = for_generator(other, lr=1e-3, **REST)
    state: dict[int, dict[str, Tensor]] = first.state_dict()["state"]
    second.load_state_dict(
        {"state": copy.deepcopy(state), "param_groups": second.state_dict()["param_groups"]}
    )
    for module, optimizer in ((generator, first), (other, second)):
        grads(module, 1)
        optimizer.step()
    for a, b in zip(generator.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
