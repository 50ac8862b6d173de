"""Metrics against public implementations and closed forms, and each one moving the way it must."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from t2i_cli.evaluation.colours import (
    COLOURS,
    caption_colour,
    colour_accuracy,
    colour_names,
    hue_name,
)
from t2i_cli.evaluation.metrics import (
    Estimate,
    diversity,
    fd,
    image_text_similarity,
    kid,
    mean_estimate,
    memorisation,
    nearest,
    prdc,
    retrieval_at_k,
    retrieval_hits,
)

RGB = {
    "black": (10, 10, 10), "gray": (128, 128, 128), "white": (255, 255, 255),
    "red": (220, 20, 30), "orange": (255, 140, 0), "yellow": (250, 220, 40),
    "green": (40, 160, 60), "teal": (20, 140, 130), "blue": (40, 80, 220),
    "purple": (130, 50, 200), "pink": (250, 130, 190), "brown": (120, 70, 40),
}  # fmt: skip


def normal(n: int, d: int = 12, seed: int = 0, shift: float = 0.0, spread: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=torch.float64) * spread + shift


def plain(colour: str, alpha: bool = True) -> np.ndarray:
    """A disc of one colour, on transparency or on white."""
    y, x = np.mgrid[:32, :32] - 15.5
    disc = (x**2 + y**2 < 120)[..., None]
    picture = np.where(disc, np.array([*RGB[colour], 255]), np.array([255, 255, 255, 0]))
    return picture.astype(np.uint8)[..., : 4 if alpha else 3]


# --- against others ------------------------------------------------------------------------------


class Features(torch.nn.Module):
    """What torchmetrics takes for a feature network: pictures that are features already."""

    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        return x


def reference(module: str, name: str) -> type:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(pytest.importorskip(f"torchmetrics.image.{module}"), name)


@pytest.mark.filterwarnings("ignore")
def test_kid_agrees_with_torchmetrics() -> None:
    real, fake = normal(300, seed=1), normal(200, seed=2, shift=0.3)
    metric = reference("kid", "KernelInceptionDistance")(
        feature=Features(), subsets=1, subset_size=200
    )
    metric.update(real[:200], real=True)
    metric.update(fake, real=False)
    expected = float(metric.compute()[0])
    assert kid(real[:200], fake).value == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_kid_takes_its_interval_from_subsets() -> None:
    """Against the kernels of each subset, one after the other, as the paper writes them."""
    real, fake = normal(30, 6, 1).double(), normal(21, 6, 2).double() * 1.3

    def mmd(x: Tensor, y: Tensor) -> float:
        xx, yy, xy = ((a @ b.T / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        n, m = len(x), len(y)
        inside = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
        return float(inside - 2 * xy.mean())

    draw = torch.Generator().manual_seed(5)
    drawn = [
        mmd(*(x[torch.randperm(len(x), generator=draw)[:8]] for x in (real, fake)))
        for _ in range(12)
    ]
    found = kid(real, fake, subsets=12, subset_size=8, seed=5)
    share = 8 / 21
    error = 1.959963984540054 * float(torch.tensor(drawn).double().std())
    assert found.value == pytest.approx(mmd(real, fake), rel=1e-10)
    assert found.error == pytest.approx(error * math.sqrt(share / (1 - share)), rel=1e-6)
    assert math.isnan(kid(real, fake, subsets=0).error)


def test_fd_agrees_with_torchmetrics() -> None:
    real, fake = normal(300, seed=1), normal(200, seed=2, shift=0.3, spread=1.5)
    metric = reference("fid", "FrechetInceptionDistance")(feature=Features()).set_dtype(
        torch.float64
    )
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert fd(real, fake).value == pytest.approx(float(metric.compute()), rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_prdc_agrees_with_its_reference_package() -> None:
    package = pytest.importorskip("prdc")
    real, fake = normal(300, seed=1), normal(200, seed=2, shift=0.6, spread=0.8)
    expected = package.compute_prdc(real.numpy(), fake.numpy(), nearest_k=4)
    found = prdc(real, fake, neighbours=4)
    assert 0.1 < expected["precision"] < 1
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-4), name


def test_kid_is_the_double_sum_of_its_definition() -> None:
    real, fake = normal(9, 3, 1), normal(7, 3, 2, shift=1)

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    expected = (
        sum(kernel(a, b) for a, b in itertools.permutations(real, 2)) / (9 * 8)
        + sum(kernel(a, b) for a, b in itertools.permutations(fake, 2)) / (7 * 6)
        - 2 * sum(kernel(a, b) for a in real for b in fake) / (9 * 7)
    )
    assert kid(real, fake).value == pytest.approx(expected, rel=1e-10)


def test_kid_is_unbiased_and_its_interval_holds_it() -> None:
    """Two sets of one distribution, 60 times: the mean is 0, and 95% intervals mostly hold 0."""
    found = [kid(normal(80, 6, 2 * i), normal(80, 6, 2 * i + 1), subsets=50) for i in range(60)]
    values = torch.tensor([item.value for item in found])
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(len(values))
    assert (values < 0).any()
    assert sum(item.low <= 0 <= item.high for item in found) >= 50


def test_fd_of_gaussians_is_the_formula_of_the_moments() -> None:
    """Diagonal covariances: |m - m'|^2 + sum of (s - s')^2."""
    spread = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    base = normal(400, 3)
    base = base - base.mean(0)
    values, vectors = torch.linalg.eigh(base.T @ base / 399)
    white = base @ vectors / values.sqrt()  # moments exactly 0 and 1
    expected = 3 * 0.25 + float((1 - spread).square().sum())
    assert fd(white, white * spread + 0.5).value == pytest.approx(expected, rel=1e-9)
    assert fd(white, white).value == pytest.approx(0, abs=1e-9)


def test_fewer_pictures_than_dimensions_give_a_finite_fd() -> None:
    assert 0 < fd(normal(5, 12, 1), normal(4, 12, 2)).value < 1e3


def test_retrieval_is_the_mean_over_every_pool() -> None:
    images, texts = normal(7, 4, 1), normal(7, 4, 2)
    captions = list("abcdefg")
    similar = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T
    for k in (1, 2):
        hits = [
            float(sum(similar[i, j] > similar[i, i] for j in others) < k)
            for i in range(7)
            for others in itertools.combinations([j for j in range(7) if j != i], 3)
        ]
        found = retrieval_at_k(images, texts, captions, pool=4, k=k)
        assert found == pytest.approx(sum(hits) / len(hits), rel=1e-9)


# --- moving the way it must ----------------------------------------------------------------------


def test_distances_grow_with_the_distance() -> None:
    real = normal(200, seed=1)
    for score in (kid, fd):
        values = [score(real, normal(200, seed=2, shift=shift)).value for shift in (0, 0.3, 1, 3)]
        assert values == sorted(values)


def test_seeds_repeat_and_intervals_shrink() -> None:
    real, fake = normal(600, seed=1), normal(600, seed=2, shift=0.4)
    for score in (kid, fd):
        assert score(real, fake, seed=3) == score(real, fake, seed=3)
        assert score(real, fake).error < score(real[:100], fake[:100]).error


def test_prdc_tells_ugly_from_narrow() -> None:
    real = normal(300, seed=1)
    ugly = prdc(real, normal(300, seed=2, spread=8))
    narrow = prdc(real, normal(300, seed=3, spread=0.05))
    good = prdc(real, normal(300, seed=4))
    assert ugly["precision"].value < 0.1 < good["precision"].value
    assert narrow["precision"].value > 0.9
    assert narrow["recall"].value < 0.05 < good["recall"].value
    assert narrow["coverage"].value < 0.3 < good["coverage"].value
    assert narrow["density"].value > good["density"].value > ugly["density"].value


def test_retrieval_right_wrong_and_without_meaning() -> None:
    features = normal(300, 16)
    captions = [f"picture {i}" for i in range(300)]
    assert retrieval_at_k(features, features, captions) == pytest.approx(1)
    assert retrieval_at_k(features, features.roll(1, 0), captions) < 0.05
    same = torch.ones(300, 16)
    assert retrieval_at_k(same, same, captions) == pytest.approx(1 / 100)
    assert retrieval_at_k(same, same, captions, k=5) == pytest.approx(5 / 100)


def test_captions_that_are_the_same_text_are_no_negatives() -> None:
    """Two captions differ in case only: neither is wrong for the other's picture."""
    images = torch.eye(3)[[0, 0, 1, 2]]
    captions = ["a cat", "A  cat", "a dog", "a cow"]
    assert retrieval_hits(images, images, captions).tolist() == pytest.approx([1, 1, 1, 1])
    assert retrieval_at_k(torch.ones(2, 3), torch.ones(2, 3), ["a cat", "a cat"]) == 1


def test_retrieval_refuses_lengths_that_differ() -> None:
    with pytest.raises(ValueError, match="as many"):
        retrieval_at_k(torch.ones(2, 3), torch.ones(2, 3), ["a"])


def test_similarity_is_the_mean_cosine() -> None:
    left, right = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[3.0, 0], [1, 0]])
    assert image_text_similarity(left, right).value == pytest.approx(0.5)


def test_diversity_of_copies_opposites_and_others() -> None:
    one = torch.tensor([[[1.0, 0], [1, 0]], [[1, 0], [-1, 0]], [[1, 0], [0, 1]]])
    assert diversity(one[:1]).value == pytest.approx(0)
    assert diversity(one[1:2]).value == pytest.approx(2)
    assert diversity(one).value == pytest.approx(1)
    with pytest.raises(ValueError, match="2 or more"):
        diversity(one[:, :1])


def test_memorisation_tells_copies_from_new_pictures() -> None:
    train, held_out = normal(300, seed=1), normal(100, seed=2)
    new = memorisation(train, held_out, normal(100, seed=3))
    copies = memorisation(train, held_out, train[:100] + 1e-3)
    assert new.ratio.value == pytest.approx(1, abs=0.1)
    assert new.copies.value < 0.06
    assert copies.ratio.value < 0.01
    assert copies.copies.value == 1
    alone = memorisation(train, None, normal(100, seed=3))
    assert alone.ratio.value == pytest.approx(1, abs=0.1)
    gaps, index = nearest(train[:5], train)
    assert gaps.tolist() == pytest.approx([0] * 5, abs=1e-5)
    assert index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("alpha", [True, False])
def test_a_disc_has_the_colour_it_has(colour: str, alpha: bool) -> None:
    if colour == "white" and not alpha:
        pytest.skip("white on white")
    assert hue_name(plain(colour, alpha)) == colour


def test_black_lines_do_not_hide_a_colour_and_two_colours_are_none() -> None:
    picture = plain("red")
    picture[:, ::3, :3] = 0
    assert hue_name(picture) == "red"
    half = plain("red")
    half[:, :16, :3] = RGB["blue"]
    assert hue_name(half, share=0.6) is None
    assert hue_name(np.zeros((8, 8, 4), np.uint8)) is None


def test_every_colour_has_a_name() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).astype(np.uint8)
    names = colour_names(grid)
    assert names.shape == grid.shape[:-1]
    assert set(names.ravel().tolist()) == set(range(len(COLOURS)))


def test_colour_words() -> None:
    assert caption_colour("a grey Koala") == "gray"
    assert caption_colour("a Green apple, red style icon") is None
    assert caption_colour("blackboard") is None
    assert caption_colour("an orange, orange") is None
    assert caption_colour("an orange cat, orange") == "orange"


def test_colour_accuracy_counts_only_captions_with_one_colour() -> None:
    pictures = [plain("red"), plain("blue"), plain("green")]
    found = colour_accuracy(pictures, ["a red ball", "a red ball", "a ball"])
    assert (found.value, found.count) == (0.5, 2)
    assert math.isnan(colour_accuracy(pictures, ["a", "b", "c"]).value)


def test_mean_estimate_is_the_normal_interval() -> None:
    found = mean_estimate(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert found.value == 0.5
    assert found.error == pytest.approx(1.96 * math.sqrt(1 / 3) / 2, rel=1e-4)
    assert (found.low, found.high) == (0.5 - found.error, 0.5 + found.error)
    assert math.isnan(Estimate(1.0).error)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="real: expected at least 2 rows"):
        kid(torch.ones(1, 3), torch.ones(5, 3))
    with pytest.raises(ValueError, match="fake: expected at least 6 rows"):
        prdc(torch.ones(9, 3), torch.ones(5, 3))
