"""Losses: tensors in, one fp32 number out. Each can be read in a minute and names its equation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "contrastive_loss",
    "exact_penalty",
    "finite_penalty",
    "hinge_d_loss",
    "log_d_loss",
    "log_g_loss",
    "mismatch_loss",
    "perceptual_loss",
    "relation_loss",
    "relativistic_d_loss",
    "relativistic_g_loss",
    "squared_distance_loss",
    "velocity_loss",
]


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, same: Tensor
) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, figure 3) in which captions that are the same text are not negatives.

    Args:
        image_features: (b, d), unit norm.
        text_features: (b, d), unit norm, row by row those of the pictures' captions.
        logit_scale: log of the inverse temperature, scalar.
        same: bool (b, b), true where two rows have the same caption; the diagonal is true.
    """
    logits = logit_scale.exp() * image_features @ text_features.T
    others = same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(others, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def relation_loss(
    text_features: Tensor, teacher_features: Tensor, temperature: float = 0.1
) -> Tensor:
    """How far the relations among texts are from a teacher's: KL of softmaxed cosines, row by row.

    Relational distillation (Park et al. 2019; Tung & Mori 2019): the widths may differ, and nothing but
    the texts' nearness to one another is asked of the student. A text's nearness to itself is left out.

    Args:
        text_features: (b, d), unit norm, the student's.
        teacher_features: (b, e), unit norm.
        temperature: that cosines are divided by.
    """
    itself = torch.eye(len(text_features), dtype=torch.bool, device=text_features.device)

    def relations(features: Tensor) -> Tensor:
        return (features @ features.T / temperature).masked_fill(itself, -1e4).log_softmax(dim=1)

    return F.kl_div(
        relations(text_features),
        relations(teacher_features),
        reduction="batchmean",
        log_target=True,
    )


def squared_distance_loss(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Mean of |E(x) - f(t)|^2 over rows of (b, d): the founding form of the image-text term."""
    return (image_features - text_features).square().sum(dim=1).mean()


def velocity_loss(velocity: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity n - z of z_s = (1 - s) z + s n: Liu et al. 2023, equation 1.

    Args:
        velocity: fp32 (b, c, n, n), what the generator says.
        latents: z, fp32 (b, c, n, n).
        noise: n, fp32 (b, c, n, n).
    """
    return (velocity - (noise - latents)).square().mean()


def hinge_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean of max(0, 1 - D(x)) and of max(0, 1 + D(G)), added: Lim & Ye 2017, equation 8. Logits of any shape."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def perceptual_loss(drawn: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Squared distance of two pictures in the features of a network, each cell's of unit norm, summed over levels.

    Zhang et al. 2018 (LPIPS), equation 1, with all weights one: a picture that is blurred, or a shape that is nearly
    there, is far from the sharp one here, where the error of its pixels is small.

    Args:
        drawn: of each level, the feature maps (b, c, h, w) of what was drawn.
        target: likewise, of what it should be.
    """
    return torch.stack(
        [_apart(mine, theirs).mean() for mine, theirs in zip(drawn, target, strict=True)]
    ).sum()


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Mean over cells of the squared distance of feature maps (b, c, h, w), each cell's of unit norm: (b,)."""
    unit = F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)
    return unit.square().sum(dim=1).mean((1, 2))


def relativistic_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean of softplus(-(D(x) - D(G))) over pairs (b,): Jolicoeur-Martineau 2019; R3GAN (2024), equation 2."""
    return F.softplus(fake_logits - real_logits).mean()


def relativistic_g_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The mirror of `relativistic_d_loss`: mean of softplus(-(D(G) - D(x)))."""
    return F.softplus(real_logits - fake_logits).mean()


def log_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G)) with D a sigmoid of the logit: Goodfellow et al. 2014, equation 1."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def log_g_loss(fake_logits: Tensor) -> Tensor:
    """-log D(G), the non-saturating form: Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake_logits).mean()


def mismatch_loss(matched_logits: Tensor, mismatched_logits: Tensor) -> Tensor:
    """A real picture fits its own caption better than another's (Reed et al. 2016, algorithm 1, made relativistic).

    Only the difference counts, so a matched pair is never called fake.
    """
    return F.softplus(mismatched_logits - matched_logits).mean()


def exact_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """|dD/dx|^2 of each picture, (b,), with a graph for its own gradient: R1 on real, R2 on generated ones.

    Mescheder et al. 2018, equation 9; weigh its mean by gamma / 2.

    Args:
        logits: (b,), made from ``images``.
        images: (b, c, h, w), requiring a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def finite_penalty(logits: Tensor, moved_logits: Tensor, sigma: float) -> Tensor:
    """What `exact_penalty` is on average, (b,), from logits (b,) of pictures x and of x + sigma n, n standard normal.

    The mean of ((D(x + sigma n) - D(x)) / sigma)^2 over n is |dD/dx|^2 to first order.
    """
    return ((moved_logits - logits) / sigma).square()
