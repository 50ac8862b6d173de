"""Losses: tensors in, one fp32 number out. Each can be read in a minute and names its equation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "contrastive_loss",
    "distill_loss",
    "edge_energy",
    "edge_loss",
    "exact_penalty",
    "finite_penalty",
    "flow_loss",
    "log_d_loss",
    "log_g_loss",
    "mismatch_loss",
    "pattern_loss",
    "pattern_power",
    "perceptual_loss",
    "relation_loss",
    "relativistic_d_loss",
    "relativistic_g_loss",
    "spread_loss",
    "squared_distance_loss",
]

EDGES = (0.03, 0.1, 0.3, 1.0)  # strengths of an edge, in the pictures' own range of -1 to 1
FAINT_POWER = 0.03  # of waves that are less than a level of 256 high at 64 px: nobody sees them
SMALLEST_LEVEL = 0.02  # of the noise in `flow_loss`: below it the picture is as good as clean


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


def flow_loss(denoised: Tensor, images: Tensor, level: Tensor) -> Tensor:
    """Squared error of the velocity n - x (Liu et al. 2023, equation 1).

    With x_s = (1 - s) x + s n the velocity told by a denoised picture is (x_s - denoised) / s, so its error is that of
    the denoised picture over s.

    Args:
        denoised: (b, c, h, w), what the network makes of x_s.
        images: x, (b, c, h, w).
        level: s, (b,) in (0, 1].
    """
    each = F.mse_loss(denoised, images, reduction="none").mean((1, 2, 3))
    return (each / level.clamp(min=SMALLEST_LEVEL).square()).mean()


def distill_loss(drawn: Tensor, target: Tensor) -> Tensor:
    """Squared error of a picture drawn in one step against a sampler's of the same noise (Luhman & Luhman 2021).

    Args:
        drawn: fp32 (b, c, h, w).
        target: fp32 (b, c, h, w) in [-1, 1].
    """
    return (drawn - target).square().mean()


def pattern_power(images: Tensor, cell: int) -> Tensor:
    """Power of pictures at the frequencies that repeat from cell to cell, the mean of each picture left out.

    Args:
        images: fp32 (b, c, h, w).
        cell: side of a cell, px; h and w are multiples of it.

    Returns:
        fp32 (b, frequencies), over the mean of the channels.
    """
    h, w = images.shape[2:]
    spectrum = torch.fft.rfft2(images.float(), norm="ortho")[:, :, :: h // cell, :: w // cell]
    return torch.view_as_real(spectrum).square().sum(-1).mean(1).flatten(1)[:, 1:]


def pattern_loss(drawn: Tensor, real: Tensor) -> Tensor:
    """Squared difference of two batches' mean log `pattern_power`.

    What is unfolded from cells of a few pixels has a pattern of their size, a peak in the spectrum that no real picture
    has (Durall et al. 2020, whose spectral term is of all frequencies). The mean is of logarithms, since a few busy
    pictures have most of a batch's power, and it is the plain ones where a pattern shows. Power under `FAINT_POWER`
    counts for nothing: the logarithm of what nobody sees has a gradient many times that of the whole game.

    Args:
        drawn: fp32 (b, frequencies).
        real: fp32 (b, frequencies), of other pictures.
    """
    floored = [(power + FAINT_POWER).log().mean(0) for power in (drawn, real)]
    return (floored[0] - floored[1]).square().mean()


def edge_energy(images: Tensor) -> Tensor:
    """How strongly neighbouring pixels differ, as seen at several strengths of an edge.

    Each value is the mean of log(1 + d^2 / strength^2) over all pairs of neighbours, d^2 being their squared difference
    summed over channels: for a strength far under an edge's it counts edges, for one far over it the edges' power.

    Args:
        images: fp32 (b, c, h, w), nominally in [-1, 1]; what lies outside is clipped, as it is when a picture is saved.

    Returns:
        fp32 (b, strengths).
    """
    x = images.float().clamp(-1, 1)
    steps = [x.diff(dim=axis).square().sum(1).flatten(1) for axis in (2, 3)]
    squares = torch.cat(steps, dim=1)
    return torch.stack([torch.log1p(squares / e**2).mean(1) for e in EDGES], dim=1)


def edge_loss(drawn: Tensor, real: Tensor) -> Tensor:
    """Squared difference of the logs of two batches' mean `edge_energy`, summed over strengths.

    Real drawings have few edges, and strong ones; what a network draws has weak ones everywhere: soft outlines, mottled
    fills. The penalty of small differences that grows like a logarithm, not like a square, is what gives sparse
    gradients (Levin et al. 2007); here the data says how sparse.

    Args:
        drawn: fp32 (b, strengths).
        real: fp32 (b, strengths), of other pictures.
    """
    return ((drawn.mean(0) + 1e-4).log() - (real.mean(0) + 1e-4).log()).square().sum()


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


def spread_loss(drawn: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """How far the distances between pictures of one caption are from what they should be: summed over levels.

    A network that is taught a mean draws what lies between the pictures that it was shown, so what it draws of two
    noises is too much alike. Here the distance of two (`perceptual_loss`) is taught itself, by its squared error:
    relational distillation by distance (Park et al. 2019, equation 5).

    Args:
        drawn: of each level, the feature maps (b, c, h, w) of what was drawn; two rows each have one caption, and the
            last one is alone where b is odd.
        target: likewise, of what it should be.
    """
    return torch.stack(
        [
            (_of_twos(mine) - _of_twos(theirs)).square().mean()
            for mine, theirs in zip(drawn, target, strict=True)
        ]
    ).sum()


def _of_twos(maps: Tensor) -> Tensor:
    """`_apart` of rows 0 and 1, 2 and 3, ...: (b // 2,)."""
    first, second = maps[: len(maps) // 2 * 2].unflatten(0, (-1, 2)).unbind(1)
    return _apart(first, second)


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
