"""More than a picture: sheets, morphs, near relatives, previews."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from t2i_cli import images
from t2i_cli.pixels import as_images
from t2i_cli.relatives import contact_sheet, morph, preview, vary
from t2i_cli.sample import Wish, finished, load
from tests.toy_weights import save_toy
from tests.toys import Toys


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_toy(tmp_path_factory.mktemp("weights") / "toy.safetensors")


@pytest.fixture
def model(weights):
    return load(weights, "cpu")


def pixels_of(model, wish):
    return model.pictures([wish])[0].pixels


def test_a_sheet_holds_every_picture(model):
    pictures = model.pictures([Wish("blue", seed, steps=1) for seed in range(5)])
    sheet = contact_sheet(pictures)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert sheet.shape[0] >= 2 * 32 and sheet.shape[1] >= 3 * 32
    assert contact_sheet(pictures, columns=5).shape[0] < sheet.shape[0]


@pytest.mark.parametrize(
    "asked", [{}, {"guidance": 1.0}, {"references": 0}, {"negative": "a bar", "scale": 2}]
)
def test_morph_begins_and_ends_at_the_prompts(model, asked):
    wish = Wish("a red ball", 3, steps=3, **asked)
    frames = morph(model, wish, "blue", 5)
    assert len(frames) == 5
    assert np.array_equal(frames[0], pixels_of(model, wish))
    assert np.array_equal(frames[-1], pixels_of(model, dataclasses.replace(wish, prompt="blue")))


def test_morph_goes_step_by_step(model):
    frames = morph(model, Wish("a red ball", 3, steps=3), "blue", 9)
    looks = [images.flatten(frame).astype(int) for frame in frames]
    whole = np.abs(looks[-1] - looks[0]).mean()
    steps = [np.abs(b - a).mean() for a, b in itertools.pairwise(looks)]
    assert whole > 0
    assert max(steps) < max(whole, 1.0)  # no frame jumps all the way
    for kind in ("gif", "webp"):
        data = images.encode_animation(frames, kind)
        assert images.decode(data, name="x").shape[:2] == (32, 32)


def test_vary_comes_near_and_goes_away(model):
    target = Toys().pixels[1]
    wishes = [Wish("a red ball", seed, steps=3) for seed in (100, 101)]
    runtime = model.runtime
    given_back = finished(runtime.decode(runtime.latents(as_images(target[None])))[0])

    def distance(picture):
        return np.abs(
            images.flatten(picture.pixels).astype(int) - images.flatten(given_back)
        ).mean()

    kept, near, far = (vary(model, target, wishes, strength=share) for share in (0.0, 0.2, 1.0))
    assert np.array_equal(kept[0].pixels, kept[1].pixels)
    assert distance(kept[0]) < 0.1  # what the autoencoder makes of the picture
    assert not np.array_equal(near[0].pixels, near[1].pixels)
    assert not np.array_equal(far[0].pixels, far[1].pixels)
    assert distance(kept[0]) < distance(near[0]) < distance(far[0])
    assert {one.recipe.kind for one in near} == {"vary"}
    assert {one.recipe.read for one in near} == {()}  # no training picture was read


def test_a_relative_is_the_same_alone_and_among_others(model):
    target = Toys().pixels[2]
    wishes = [Wish("a red ball", seed, steps=2) for seed in range(5)]
    together = vary(model, target, wishes, strength=0.4)
    for wish, one in zip(wishes, together, strict=True):
        (alone,) = vary(model, target, [wish], strength=0.4)
        assert np.array_equal(alone.pixels, one.pixels)


@pytest.mark.parametrize("shape", [(7, 40, 4), (100, 20, 3), (1, 1, 4)])
def test_a_picture_of_any_size_can_be_varied(model, shape):
    target = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    (found,) = vary(model, target, [Wish("blue", 0, steps=1)], strength=0.5)
    assert found.pixels.shape == (32, 32, 4)


def test_preview_is_text_for_a_terminal():
    pixels = np.zeros((4, 3, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    lines = preview(pixels).split("\n")
    assert len(lines) == 2
    assert "38;2;255;0;0m▀" in lines[0]
    assert lines[1].endswith("\x1b[0m")
