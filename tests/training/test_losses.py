"""Every loss against its formula, written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from t2i_cli.training import losses

RNG = np.random.default_rng(0)


def unit(rows: int, dim: int) -> np.ndarray:
    values = RNG.normal(size=(rows, dim))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def test_contrastive_loss_is_symmetric_infonce_without_equal_captions_as_negatives() -> None:
    image, text = unit(6, 5), unit(6, 5)
    text[3] = text[1]
    captions = np.array([0, 1, 2, 1, 4, 5])
    scale = 7.5
    logits = scale * image @ text.T
    expected = 0.0
    for i in range(6):
        allowed = [j for j in range(6) if j == i or captions[j] != captions[i]]
        expected += np.log(np.exp(logits[i, allowed]).sum()) - logits[i, i]
        expected += np.log(np.exp(logits[allowed, i]).sum()) - logits[i, i]
    same = torch.tensor(captions[:, None] == captions[None])
    got = losses.contrastive_loss(
        torch.tensor(image),
        torch.tensor(text),
        torch.tensor(math.log(scale), dtype=torch.float64),
        same,
    )
    assert float(got) == pytest.approx(expected / 12, rel=1e-10)


def test_flow_loss_is_the_error_of_the_velocity() -> None:
    x, noise, told = (RNG.normal(size=(4, 3, 8, 8)) for _ in range(3))
    level = np.array([0.1, 0.5, 0.9, 1.0])
    s = level[:, None, None, None]
    noisy = (1 - s) * x + s * noise
    velocity = (noisy - told) / s
    expected = np.mean((velocity - (noise - x)) ** 2)
    got = losses.flow_loss(torch.tensor(told), torch.tensor(x), torch.tensor(level))
    assert float(got) == pytest.approx(expected, rel=1e-10)


def test_perceptual_loss_is_a_distance_of_directions_in_every_cell() -> None:
    mine = [RNG.normal(size=(2, 5, 4, 4)), RNG.normal(size=(2, 3, 2, 2))]
    theirs = [RNG.normal(size=level.shape) for level in mine]
    expected = 0.0
    for a, b in zip(mine, theirs, strict=True):
        cells = zip(
            a.transpose(0, 2, 3, 1).reshape(-1, a.shape[1]),
            b.transpose(0, 2, 3, 1).reshape(-1, a.shape[1]),
            strict=True,
        )
        apart = [((x / np.linalg.norm(x) - y / np.linalg.norm(y)) ** 2).sum() for x, y in cells]
        expected += np.mean(apart)
    levels = [[torch.tensor(level) for level in pair] for pair in (mine, theirs)]
    assert float(losses.perceptual_loss(*levels)) == pytest.approx(expected, rel=1e-5)
    brighter = [3 * level for level in levels[0]]
    assert float(losses.perceptual_loss(levels[0], brighter)) == pytest.approx(0, abs=1e-9)


def test_spread_loss_asks_of_twos_how_far_they_are_apart() -> None:
    mine = [RNG.normal(size=(5, 4, 2, 2)), RNG.normal(size=(5, 3, 1, 1))]
    theirs = [RNG.normal(size=level.shape) for level in mine]

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x / np.linalg.norm(x, axis=0) for x in (a, b))
        return float(((a - b) ** 2).sum(0).mean())

    expected = 0.0
    for a, b in zip(mine, theirs, strict=True):  # the fifth has no other
        errors = [apart(a[i], a[i + 1]) - apart(b[i], b[i + 1]) for i in (0, 2)]
        expected += np.mean(np.square(errors))
    levels = [[torch.tensor(level) for level in group] for group in (mine, theirs)]
    assert float(losses.spread_loss(*levels)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.spread_loss(levels[0], levels[0])) == 0
    alike = [level[:1].expand(4, -1, -1, -1).clone().requires_grad_() for level in levels[0]]
    moved = [level + 0.01 * torch.randn_like(level) for level in alike]
    losses.spread_loss(moved, [level[:4] for level in levels[1]]).backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in alike)


def test_pattern_loss_sees_what_repeats_from_cell_to_cell() -> None:
    drawn, real = RNG.normal(size=(3, 2, 16, 8)), RNG.normal(size=(5, 2, 16, 8))

    def log_power(images: np.ndarray) -> np.ndarray:
        power = (np.abs(np.fft.fft2(images, norm="ortho")) ** 2).mean(1)[:, ::4][:, :, [0, 2, 4]]
        return np.log(power.reshape(len(images), -1)[:, 1:] + losses.FAINT_POWER).mean(0)

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return losses.pattern_loss(losses.pattern_power(a, 4), losses.pattern_power(b, 4))

    expected = ((log_power(drawn) - log_power(real)) ** 2).mean()
    a, b = (torch.tensor(images, dtype=torch.float32) for images in (drawn, real))
    assert float(loss(a, b)) == pytest.approx(expected, rel=1e-4)
    dots = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).repeat(4, 2)
    assert loss(b + dots, b) > loss(b + 0.3 * dots, b) > 0.05
    assert float(loss(b + 1.0, b)) == pytest.approx(0, abs=1e-6)  # brighter, but no pattern


def test_edge_loss_tells_soft_outlines_and_mottled_fills_from_drawings() -> None:
    drawn, real = RNG.normal(size=(3, 2, 8, 6)), RNG.normal(size=(5, 2, 8, 6)) * 0.5

    def mean_energy(images: np.ndarray) -> np.ndarray:
        x = images.clip(-1, 1)
        squares = [(np.diff(x, axis=axis) ** 2).sum(1).reshape(len(x), -1) for axis in (2, 3)]
        log = [np.log(1 + np.concatenate(squares, 1) / e**2).mean() for e in losses.EDGES]
        return np.log(np.array(log) + 1e-4)

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return losses.edge_loss(losses.edge_energy(a), losses.edge_energy(b))

    a, b = (torch.tensor(images, dtype=torch.float32) for images in (drawn, real))
    expected = ((mean_energy(drawn) - mean_energy(real)) ** 2).sum()
    assert float(loss(a, b)) == pytest.approx(expected, rel=1e-4)
    square = torch.full((1, 1, 16, 16), -0.5)
    square[..., 4:12, 4:12] = 0.5
    mottled = square + 0.05 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    soft = torch.nn.functional.avg_pool2d(square, 3, 1, padding=1, count_include_pad=False)
    moved = square.roll((2, 1), (2, 3))
    assert float(loss(moved, square)) == pytest.approx(0, abs=1e-6)  # only elsewhere
    assert min(loss(mottled, square), loss(soft, square)) > 0.5
    x = mottled.clone().requires_grad_()
    for _ in range(200):  # what goes down it has the fills of the drawing, and its edges still
        (step,) = torch.autograd.grad(loss(x, square), x)
        x = (x - 0.02 * step / step.abs().max()).detach().requires_grad_()
    assert (x - square).abs().mean() < 0.5 * (mottled - square).abs().mean()


def test_adversarial_losses_against_their_formulas() -> None:
    real, fake, other = (RNG.normal(size=32) * 3 for _ in range(3))
    r, f, o = torch.tensor(real), torch.tensor(fake), torch.tensor(other)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    assert float(losses.relativistic_d_loss(r, f)) == pytest.approx(softplus(-(real - fake)).mean())
    assert float(losses.relativistic_g_loss(r, f)) == pytest.approx(softplus(-(fake - real)).mean())
    assert float(losses.log_d_loss(r, f)) == pytest.approx(
        (-np.log(sigmoid(real)) - np.log(1 - sigmoid(fake))).mean()
    )
    assert float(losses.log_g_loss(f)) == pytest.approx(-np.log(sigmoid(fake)).mean())
    assert float(losses.mismatch_loss(r, o)) == pytest.approx(softplus(-(real - other)).mean())


def test_mismatch_loss_never_calls_a_matched_pair_fake() -> None:
    matched = torch.tensor([2.0], requires_grad=True)
    losses.mismatch_loss(matched, torch.tensor([5.0])).backward()
    assert matched.grad is not None
    assert float(matched.grad) < 0  # going down the loss raises the matched logit


def test_squared_distance() -> None:
    a, b = unit(5, 7), unit(5, 7)
    got = losses.squared_distance_loss(torch.tensor(a), torch.tensor(b))
    assert float(got) == pytest.approx(((a - b) ** 2).sum(1).mean())


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return (x.square().sum((1, 2, 3)) / 2) + 3 * x[:, 0, 0, 0]


def test_exact_penalty_is_the_squared_gradient_and_has_a_gradient_of_its_own() -> None:
    x = torch.tensor(RNG.normal(size=(3, 2, 4, 4)), requires_grad=True)
    penalty = losses.exact_penalty(quadratic(x), x)
    gradient = x.detach().numpy().copy()
    gradient[:, 0, 0, 0] += 3
    assert penalty.detach().numpy() == pytest.approx((gradient**2).sum((1, 2, 3)))
    penalty.sum().backward()
    assert x.grad is not None
    assert x.grad.numpy() == pytest.approx(2 * gradient)


def test_finite_penalty_is_the_exact_one_on_average() -> None:
    x = torch.tensor(RNG.normal(size=(1, 2, 4, 4)), requires_grad=True)
    exact = float(losses.exact_penalty(quadratic(x), x).detach())
    many = x.detach().expand(200_000, -1, -1, -1)
    moved = many + 0.001 * torch.randn(
        many.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    finite = losses.finite_penalty(quadratic(many), quadratic(moved), 0.001)
    assert float(finite.mean()) == pytest.approx(exact, rel=0.02)
