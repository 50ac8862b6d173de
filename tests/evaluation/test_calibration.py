"""Damaged pictures: each damage against a reference, and what a score is said to tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from t2i_cli.evaluation.calibration import DAMAGES, blur, shuffle_tiles, tells_apart, warp
from t2i_cli.evaluation.metrics import Estimate


def noise(n: int = 3, side: int = 32, channels: int = 4) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (n, side, side, channels)).astype(np.uint8)


def test_a_blur_is_the_gaussian_of_its_width() -> None:
    """A bright column spreads as exp(-x^2 / 2 s^2), whatever its row; computed here in float64."""
    for sigma in (1.0, 2.0):
        pixels = np.zeros((1, 33, 33, 3), np.uint8)
        pixels[:, :, 16] = 255
        reach = math.ceil(3 * sigma)
        curve = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
        expected = np.zeros(33)
        expected[16 - reach : 17 + reach] = 255 * curve / curve.sum()
        assert np.abs(blur(pixels, sigma)[0, 5, :, 1].astype(float) - expected).max() <= 0.51


def test_a_blur_takes_no_colour_from_under_transparency() -> None:
    pixels = np.zeros((1, 32, 32, 4), np.uint8)
    pixels[..., :3] = (0, 255, 0)  # green, under nothing
    pixels[:, 8:24, 8:24] = (255, 0, 0, 255)
    done = blur(pixels, 2.0)[0]
    shown = done[..., 3] > 20
    assert done[shown][:, 0].min() >= 250
    assert done[shown][:, 1].max() <= 5
    assert 100 < done[16, 8, 3] < 160  # its edge is half there


def test_a_warp_moves_by_at_most_its_reach_and_keeps_the_rest() -> None:
    """A picture of coordinates says where each pixel came from."""
    side = 64
    y, x = np.mgrid[:side, :side]
    pixels = np.stack([x * 4, y * 4, 0 * x], -1).astype(np.uint8)[None].repeat(5, 0)
    done = warp(pixels, 4.0, seed=1).astype(float) / 4
    inner = np.s_[:, 6:-6, 6:-6]
    moved = np.hypot(done[..., 0] - x, done[..., 1] - y)[inner]
    assert moved.max() <= 4.3  # rounded to a quarter of a pixel
    assert (moved.reshape(5, -1).max(1) > 2).all()
    assert np.abs(np.diff(done[..., 0], axis=2)).max() < 3.5  # smooth: neighbours stay neighbours
    assert (done[0] != done[1]).any()  # each picture its own
    assert (warp(pixels, 4.0, seed=1) == warp(pixels, 4.0, seed=1)).all()
    assert (warp(pixels, 4.0, seed=2) != warp(pixels, 4.0, seed=1)).any()
    assert (warp(pixels, 0.0) == pixels).all()


def test_more_pictures_than_a_batch_are_all_damaged() -> None:
    pixels = noise(300, 8)
    for done in (warp(pixels, 2.0), blur(pixels, 1.0)):
        assert (done != pixels).any(axis=(1, 2, 3)).all()


def test_shuffled_tiles_are_the_same_tiles_elsewhere() -> None:
    pixels = noise(6, 34)  # two pixels are left over at the right and below
    done = shuffle_tiles(pixels, 4, seed=3)
    for before, after in zip(pixels, done, strict=True):
        tiles = [
            {
                picture[i : i + 8, j : j + 8].tobytes()
                for i in range(0, 32, 8)
                for j in range(0, 32, 8)
            }
            for picture in (before, after)
        ]
        assert tiles[0] == tiles[1]
        assert (before != after).any()
    assert (done[:, 32:] == pixels[:, 32:]).all()
    orders = {(done[i] == pixels[i]).all(-1).mean() for i in range(6)}
    assert len(orders) > 1  # each picture its own order


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", list(DAMAGES))
def test_every_damage_keeps_shape_and_changes_pictures(name: str, channels: int) -> None:
    pixels = noise(4, 64, channels)
    kept = pixels.copy()
    done = DAMAGES[name](pixels, 0)
    assert done.shape == pixels.shape
    assert done.dtype == np.uint8
    assert (done != pixels).mean() > 0.5
    assert (pixels == kept).all()


def test_what_a_score_tells_apart() -> None:
    others = {"far": Estimate(0.5, 0.1), "near": Estimate(0.11, 0.05), "below": Estimate(-0.5, 0.1)}
    assert tells_apart("kid", Estimate(0.0, 0.1), others) == ("far",)
    assert tells_apart("retrieval", Estimate(0.0, 0.1), others) == ("below",)
    assert tells_apart("diversity", Estimate(0.0, 0.1), others) == ("far", "below")
    assert tells_apart("kid", Estimate(0.0), {"unsure": Estimate(1e-3)}) == ("unsure",)
    assert tells_apart("kid", Estimate(0.0), {"unknown": Estimate(math.nan)}) == ()
