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


def test_velocity_loss_is_the_squared_error_of_noise_minus_latents() -> None:
    told, latents, noise = (RNG.normal(size=(4, 3, 8, 8)) for _ in range(3))
    expected = np.mean((told - (noise - latents)) ** 2)
    got = losses.velocity_loss(*map(torch.tensor, (told, latents, noise)))
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_the_true_velocity_has_no_loss_and_leads_from_noise_to_latents() -> None:
    """z_s = (1 - s) z + s n moves by n - z for each unit of s, so z_s - s v is z at every level."""
    latents, noise = (torch.tensor(RNG.normal(size=(3, 2, 4, 4))) for _ in range(2))
    s = torch.tensor([0.1, 0.6, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    noisy = ((1 - s) * latents + s * noise).requires_grad_()
    velocity = noise - latents
    assert float(losses.velocity_loss(velocity, latents, noise)) == 0
    assert torch.allclose(noisy - s * velocity, latents)
    told = velocity + 1
    told.requires_grad_()
    losses.velocity_loss(told, latents, noise).backward()
    assert told.grad is not None
    assert torch.allclose(told.grad, torch.full_like(told, 2 / told.numel()))


def test_hinge_loss_against_its_formula_for_logits_of_any_shape() -> None:
    real, fake = RNG.normal(size=(4, 1, 6, 6)) * 2, RNG.normal(size=(3, 1, 5, 5)) * 2
    expected = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
    got = losses.hinge_d_loss(torch.tensor(real), torch.tensor(fake))
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_hinge_loss_asks_for_a_margin_of_one_and_for_no_more() -> None:
    real = torch.tensor([-1.0, 0.9, 1.5], requires_grad=True)
    fake = torch.tensor([1.0, -0.9, -1.5], requires_grad=True)
    losses.hinge_d_loss(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.tolist() == pytest.approx([-1 / 3, -1 / 3, 0])
    assert fake.grad.tolist() == pytest.approx([1 / 3, 1 / 3, 0])
    assert float(losses.hinge_d_loss(torch.tensor([1.0]), torch.tensor([-1.0]))) == 0


def test_relation_loss_is_the_divergence_of_softmaxed_cosines() -> None:
    student, teacher = unit(5, 4), unit(5, 7)

    def relations(features: np.ndarray) -> np.ndarray:
        logits = features @ features.T / 0.1
        np.fill_diagonal(logits, -np.inf)
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    p, q = relations(teacher), relations(student)
    off = ~np.eye(5, dtype=bool)
    expected = (p[off] * np.log(p[off] / q[off])).sum() / 5
    got = losses.relation_loss(torch.tensor(student), torch.tensor(teacher))
    assert float(got) == pytest.approx(expected, rel=1e-6)
    turned = torch.tensor(teacher[:, ::-1].copy())  # another basis, the same relations
    assert float(losses.relation_loss(turned, torch.tensor(teacher))) == pytest.approx(0, abs=1e-9)


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
