"""What all stages' steps share: gradients that are checked first, schedules, and who is whose negative."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from t2i_cli.training.step import (
    backward,
    cosine,
    decayed,
    different,
    normal,
    same_caption,
    set_lr,
    take,
    warm_cosine,
)


def learner() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    return network, torch.optim.SGD(network.parameters(), lr=0.1)


def test_backward_tells_the_norm_and_clips_and_moves_nothing() -> None:
    network, optimizer = learner()
    before = [p.clone() for p in network.parameters()]
    x = torch.randn(8, 4)
    whole = backward(optimizer, network(x).square().sum())
    assert whole is not None
    free = [p.grad.clone() for p in network.parameters()]  # pyright: ignore
    assert float(whole) == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in free)))
    clipped = backward(optimizer, network(x).square().sum(), 0.5)
    assert clipped is not None
    assert float(clipped) == pytest.approx(float(whole))  # of before
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters()))  # pyright: ignore
    assert norm == pytest.approx(0.5, rel=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_backward_says_so_where_something_is_not_finite(value: float, where: str) -> None:
    network, optimizer = learner()
    loss = network(torch.randn(2, 4)).sum()
    if where == "loss":
        assert backward(optimizer, loss + value) is None
    else:
        network.weight.register_hook(lambda gradient: gradient + value)
        assert backward(optimizer, loss) is None


def test_take_steps_and_measures_how_far_matrices_moved() -> None:
    network, optimizer = learner()
    backward(optimizer, network(torch.randn(8, 4)).square().sum())
    before, gradient = network.weight.detach().clone(), network.weight.grad
    told = take(optimizer, measure=True)
    assert gradient is not None
    assert torch.allclose(network.weight, before - 0.1 * gradient)
    expected = float((0.1 * gradient).norm() / before.norm())
    assert float(told["update"]) == pytest.approx(expected, rel=1e-4)
    assert take(optimizer) == {}


def test_only_matrices_decay() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Conv2d(2, 2, 3))
    temperature = nn.Parameter(torch.zeros(()))
    parameters = [*network.parameters(), temperature]
    matrices, rest = decayed(parameters)
    assert [p.dim() for p in matrices["params"]] == [2, 4]  # pyright: ignore
    assert rest["weight_decay"] == 0.0
    assert "weight_decay" not in matrices
    assert len(matrices["params"]) + len(rest["params"]) == len(parameters)  # pyright: ignore


def test_cosine_goes_from_one_to_zero_and_stays() -> None:
    assert [cosine(p) for p in (-1, 0, 0.5, 1, 2)] == pytest.approx([1, 1, 0.5, 0, 0])


def test_warm_cosine_rises_and_falls_to_its_end() -> None:
    told = [warm_cosine(p, 0.1, 0.2) for p in (0, 0.05, 0.1, 0.55, 1, 1.5)]
    assert told == pytest.approx([0.02, 0.5, 1, 0.6, 0.2, 0.2])


def test_set_lr_reaches_every_group() -> None:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(decayed(network.parameters()), lr=1.0, betas=(0.9, 0.99))
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    set_lr(optimizer, 0.5, (0.0, 0.9))
    assert [group["betas"] for group in optimizer.param_groups] == [(0.0, 0.9)] * 2


def test_same_caption() -> None:
    same = same_caption(torch.tensor([3, 1, 3]))
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_different_finds_another_caption_where_there_is_one() -> None:
    text = torch.tensor([0, 0, 1, 1, 1, 2, 0])
    other = different(text)
    assert bool((text[other] != text).all())
    assert other.tolist()[4] == 5  # the next one, where it differs
    alike = different(torch.zeros(5, dtype=torch.int64))
    assert ((alike >= 0) & (alike < 5)).all()
    assert different(torch.tensor([7])).tolist() == [0]


def test_normal_is_channels_last_and_told_by_its_generator() -> None:
    noise = normal((64, 16, 8, 8), torch.Generator().manual_seed(1))
    assert noise.shape == (64, 16, 8, 8)
    assert noise.is_contiguous(memory_format=torch.channels_last)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert torch.equal(noise, normal((64, 16, 8, 8), torch.Generator().manual_seed(1)))
