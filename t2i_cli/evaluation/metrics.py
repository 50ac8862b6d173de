"""Scores of pictures and captions: features in, numbers out; no networks, no files.

Features are float tensors, one row a picture or a caption; scores are computed in float64. Whatever
is drawn at random is drawn from a seed. An `Estimate` is a value with the half-width of its 95%
confidence interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Estimate",
    "Neighbours",
    "diversity",
    "fd",
    "image_text_similarity",
    "kid",
    "mean_estimate",
    "memorisation",
    "nearest",
    "prdc",
    "retrieval_at_k",
    "retrieval_hits",
]

_ROWS = 1024  # rows of a distance matrix held at a time
_Z95 = 1.959963984540054  # half-width of a 95% interval, in standard errors


@dataclass(frozen=True)
class Estimate:
    """A score and how sure it is."""

    value: float
    error: float = math.nan  # half-width of the 95% confidence interval; nan where it is not known
    count: int = 0  # pictures it was measured on

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.value - self.error

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.value + self.error


def mean_estimate(values: Tensor) -> Estimate:
    """Mean of one number a picture, (n,), with the normal interval of a mean."""
    values = values.double()
    count = len(values)
    if count == 0:
        return Estimate(math.nan)
    error = _Z95 * float(values.std()) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(values.mean()), error, count)


# --- pictures against pictures -------------------------------------------------------------------


def kid(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 500, seed: int = 0
) -> Estimate:
    """Kernel inception distance (Binkowski et al. 2018, eq. 4): unbiased MMD^2, (x.y/d + 1)^3.

    The value is the U-statistic over all pictures, which the usual mean over random subsets tends
    to. The interval comes from subsets drawn without replacement, scaled to the full count
    (Politis, Romano & Wolf 1999, 2.2).

    Args:
        real: features (n, d), n > 1.
        fake: features (m, d), m > 1.
        subsets: how many subsets the interval is measured from.
        subset_size: pictures of each kind in a subset; at most half of the smaller set is used.
        seed: of the subsets.
    """
    real, fake = _rows(real, "real", 2), _rows(fake, "fake", 2)
    smaller = min(len(real), len(fake))
    size = min(subset_size, smaller // 2)
    if size < 2 or subsets < 2:
        subsets = 0
    draw = torch.Generator().manual_seed(seed)
    # row 0 is all pictures, each further one a subset: 1 where a picture is in it
    chosen = [torch.zeros(1 + subsets, len(rows), dtype=torch.float64) for rows in (real, fake)]
    for rows in chosen:
        rows[0] = 1
    for i in range(1, 1 + subsets):
        for rows in chosen:
            rows[i, torch.randperm(rows.shape[1], generator=draw)[:size]] = 1
    found = _mmd(real, fake, *chosen)
    if not subsets:
        return Estimate(float(found[0]), math.nan, len(fake))
    share = size / smaller
    error = _Z95 * float(found[1:].std()) * math.sqrt(share / (1 - share))
    return Estimate(float(found[0]), error, len(fake))


def fd(real: Tensor, fake: Tensor, *, resamples: int = 10, seed: int = 0) -> Estimate:
    """Frechet distance of the two Gaussians fitted to the features (Heusel et al. 2017, eq. 6).

    It falls with the number of pictures, so figures compare only at the same count; `kid` does not.

    Args:
        real: features (n, d), n > 1.
        fake: features (m, d), m > 1.
        resamples: bootstrap draws for the interval; 0 leaves it out.
        seed: of the bootstrap.
    """
    real, fake = _rows(real, "real", 2), _rows(fake, "fake", 2)
    moments = _moments(real)
    value = _frechet(*moments, *_moments(fake))
    if resamples < 2:
        return Estimate(value, math.nan, len(fake))
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.tensor(
        [
            _frechet(
                *moments, *_moments(fake[torch.randint(len(fake), (len(fake),), generator=draw)])
            )
            for _ in range(resamples)
        ],
        dtype=torch.float64,
    )
    return Estimate(value, _Z95 * float(drawn.std()), len(fake))


def prdc(real: Tensor, fake: Tensor, *, neighbours: int = 5) -> dict[str, Estimate]:
    """Precision, recall (Kynkaanniemi 2019), density, coverage (Naeem 2020, eqs. 3-5).

    Precision and density fall where pictures look like nothing real; recall and coverage where
    whole kinds of real pictures are never made. Precision and recall are 0 to 1, so is coverage;
    density can pass 1.

    Args:
        real: features (n, d), n > neighbours.
        fake: features (m, d), m > neighbours.
        neighbours: the k whose distance is a picture's radius.
    """
    real, fake = _rows(real, "real", neighbours + 1), _rows(fake, "fake", neighbours + 1)
    real_radius = _kth_distance(real, neighbours)
    fake_radius = _kth_distance(fake, neighbours)
    inside = torch.zeros(len(fake), dtype=torch.float64)  # how many real balls each fake is in
    recalled = torch.zeros(len(real), dtype=torch.float64)
    covered = torch.zeros(len(real), dtype=torch.float64)
    for start in range(0, len(real), _ROWS):
        rows = slice(start, start + _ROWS)
        gaps = torch.cdist(real[rows], fake)
        inside += (gaps < real_radius[rows, None]).sum(0)
        recalled[rows] = (gaps < fake_radius[None]).any(1).double()
        covered[rows] = (gaps.min(1).values < real_radius[rows]).double()
    return {
        "precision": mean_estimate((inside > 0).double()),
        "recall": mean_estimate(recalled),
        "density": mean_estimate(inside / neighbours),
        "coverage": mean_estimate(covered),
    }


def diversity(features: Tensor) -> Estimate:
    """Mean cosine distance between pictures of the same prompt, 0 (all the same) to 2.

    Args:
        features: (prompts, pictures, d), two pictures or more of each prompt.
    """
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(f"expected (prompts, 2 or more pictures, d), got {tuple(features.shape)}")
    units = torch.nn.functional.normalize(features.double(), dim=-1)
    count = units.shape[1]
    total = units.sum(1).square().sum(-1)  # sum of all cosines of a prompt, the diagonal among them
    cosines = (total - units.square().sum((1, 2))) / (count * (count - 1))
    return mean_estimate((1 - cosines).clamp_min(0))


@dataclass(frozen=True)
class Neighbours:
    """How near pictures come to the training pictures."""

    # median distance to the nearest training picture, over that of held-out real ones; 0: copies
    ratio: Estimate
    # share nearer to a training picture than 99 of 100 held-out real ones are; 0.01 is no sign
    copies: Estimate


def nearest(features: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to, and index of, the nearest row of ``train`` (m, d): both (n,)."""
    features, train = _rows(features, "features", 1), _rows(train, "train", 1)
    found = [
        torch.cdist(features[start : start + _ROWS], train).min(1)
        for start in range(0, len(features), _ROWS)
    ]
    return torch.cat([item.values for item in found]), torch.cat([item.indices for item in found])


def memorisation(train: Tensor, held_out: Tensor | None, fake: Tensor) -> Neighbours:
    """Whether generated pictures lie nearer to the training pictures than new real pictures do.

    Args:
        train: features (n, d) of training pictures.
        held_out: features (h, d) of real pictures that were not trained on; None where there are
            none, and each training picture is measured against the others.
        fake: features (m, d) of generated pictures.
    """
    if held_out is None:
        real_gap = _kth_distance(_rows(train, "train", 2), 1)
    else:
        real_gap, _ = nearest(held_out, train)
    fake_gap, _ = nearest(fake, train)
    usual = float(real_gap.median())
    ratio = float(fake_gap.median()) / usual if usual > 0 else math.nan
    # standard error of a median: 1.2533 sigma / sqrt(n)
    spread = (
        1.2533 * float(fake_gap.std()) / math.sqrt(len(fake_gap)) / usual
        if usual > 0 and len(fake_gap) > 1
        else math.nan
    )
    limit = float(real_gap.quantile(0.01))
    return Neighbours(
        Estimate(ratio, _Z95 * spread, len(fake_gap)),
        mean_estimate((fake_gap < limit).double()) if usual > 0 else Estimate(math.nan),
    )


# --- pictures against text -----------------------------------------------------------------------


def retrieval_hits(
    image_features: Tensor,
    text_features: Tensor,
    captions: Sequence[str],
    pool: int = 100,
    k: int = 1,
) -> Tensor:
    """Chance (n,), 0 to 1, that a picture's caption is among the best ``k`` of a random ``pool``.

    A pool is the picture's own caption and ``pool - 1`` others, each text once; captions that are
    the same text are never negatives of each other. The chance is exact, by counting over all pools
    (hypergeometric), so no pool is drawn and nothing depends on a seed. Ties rank at random:
    features that say nothing give ``k / pool``.

    Args:
        image_features: (n, d); similarity is the cosine.
        text_features: (n, d), of ``captions``.
        captions: the n texts.
        pool: captions to choose from; fewer where there are fewer different ones.
        k: how many guesses a picture has.
    """
    if not len(image_features) == len(text_features) == len(captions):
        raise ValueError(
            f"expected as many pictures ({len(image_features)}) as texts ({len(text_features)}) "
            f"and captions ({len(captions)})"
        )
    place: dict[str, int] = {}
    own = torch.tensor(
        [place.setdefault(" ".join(caption.lower().split()), len(place)) for caption in captions],
        dtype=torch.long,
    )
    if not len(own):
        return torch.zeros(0, dtype=torch.float64)
    first = torch.zeros(len(place), dtype=torch.long)
    first[own.flip(0)] = torch.arange(len(own)).flip(0)  # the first caption of each text
    images = torch.nn.functional.normalize(image_features.detach().double().cpu(), dim=-1)
    texts = torch.nn.functional.normalize(text_features.detach().double().cpu(), dim=-1)[first]
    chance = _pool_chance(len(place) - 1, min(pool, len(place)) - 1, k)
    summed = torch.cat([torch.zeros(1, dtype=torch.float64), chance.cumsum(0)])
    hits = torch.empty(len(own), dtype=torch.float64)
    for start in range(0, len(own), _ROWS):
        rows = slice(start, start + _ROWS)
        similar = images[rows] @ texts.T
        mine = similar.gather(1, own[rows, None])
        better = (similar > mine + 1e-7).sum(1)
        tied = ((similar - mine).abs() <= 1e-7).sum(1)  # itself among them
        hits[rows] = (summed[better + tied] - summed[better]) / tied
    return hits


def retrieval_at_k(
    image_features: Tensor,
    text_features: Tensor,
    captions: Sequence[str],
    pool: int = 100,
    k: int = 1,
) -> float:
    """R@k: how often a picture's own caption is among the best ``k`` of ``pool``."""
    return float(retrieval_hits(image_features, text_features, captions, pool, k).mean())


def image_text_similarity(image_features: Tensor, text_features: Tensor) -> Estimate:
    """Mean cosine of pictures (n, d) and their captions (n, d), -1 to 1."""
    return mean_estimate(
        torch.nn.functional.cosine_similarity(
            image_features.double(), text_features.double(), dim=-1
        )
    )


# --- the arithmetic ------------------------------------------------------------------------------


def _rows(features: Tensor, name: str, least: int) -> Tensor:
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"{name}: expected at least {least} rows of features, got {tuple(features.shape)}"
        )
    return features.detach().double().cpu()


def _mmd(real: Tensor, fake: Tensor, real_in: Tensor, fake_in: Tensor) -> Tensor:
    """Unbiased squared MMD (s,) under the cubic kernel, of s subsets of features (n, d), (m, d).

    ``real_in`` (s, n) and ``fake_in`` (s, m) are 1 where a row is in a subset, else 0, so that each kernel
    is computed once whatever the number of subsets.
    """

    def within(rows: Tensor, inside: Tensor) -> Tensor:
        count = inside.sum(1)
        diagonal = inside @ _cubic(rows.square().sum(1) / rows.shape[1])
        return (_kernel_sums(rows, rows, inside, inside) - diagonal) / (count * (count - 1))

    across = _kernel_sums(real, fake, real_in, fake_in) / (real_in.sum(1) * fake_in.sum(1))
    return within(real, real_in) + within(fake, fake_in) - 2 * across


def _kernel_sums(left: Tensor, right: Tensor, left_in: Tensor, right_in: Tensor) -> Tensor:
    """Sums (s,) of the kernel over the pairs of each subset."""
    total = torch.zeros(len(left_in), dtype=torch.float64)
    for start in range(0, len(left), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = _cubic(left[rows] @ right.T / left.shape[1])
        total += ((left_in[:, rows] @ kernel) * right_in).sum(1)
    return total


def _cubic(products: Tensor) -> Tensor:
    return (products + 1) ** 3


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d)."""
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def _frechet(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2), by the eigenvalues of C^1/2 C' C^1/2."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp_min(0).sqrt().sum()
    return float(
        (mean - other_mean).square().sum()
        + covariance.trace()
        + other_covariance.trace()
        - 2 * cross
    )


def _kth_distance(features: Tensor, k: int) -> Tensor:
    """Distance (n,) to the k-th nearest other row."""
    found: list[Tensor] = []
    for start in range(0, len(features), _ROWS):
        gaps = torch.cdist(features[start : start + _ROWS], features)
        found.append(gaps.kthvalue(k + 1, dim=1).values)
    return torch.cat(found)


def _pool_chance(negatives: int, drawn: int, k: int) -> Tensor:
    """P(fewer than k of ``drawn`` negatives beat the right one | g of all do), for each g."""
    better = torch.arange(negatives + 1, dtype=torch.float64)
    chance = torch.zeros(negatives + 1, dtype=torch.float64)
    for j in range(min(k, drawn + 1)):
        log = (
            _log_choose(better, j)
            + _log_choose(negatives - better, drawn - j)
            - _log_choose(torch.tensor(float(negatives)), drawn)
        )
        chance += log.exp()
    return chance.clamp(0, 1)


def _log_choose(n: Tensor, k: int) -> Tensor:
    n = n.double()
    safe = n.clamp_min(float(k))
    log = torch.lgamma(safe + 1) - math.lgamma(k + 1) - torch.lgamma(safe - k + 1)
    return torch.where(n >= k, log, -math.inf)
