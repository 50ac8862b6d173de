"""What D sees, and that no change makes a caption lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t2i_cli.evaluation.colours import hue_name
from t2i_cli.pixels import to_images
from t2i_cli.training import augmentation as a
from tests.toys import COLOURS, Toys


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_recolour_turns_the_hue_to_the_word(colour: str, named: bool) -> None:
    told = colour if named else a.UNNAMED
    toys = Toys()
    rows = [i for i, c in enumerate(toys.captions) if colour in c[0]]
    pixels = torch.tensor(toys.pixels[rows])
    for target in ("red", "orange", "green", "blue", "purple", "brown"):
        turned, fits = a.recolour(pixels, [told] * 4, [target] * 4, torch.zeros(4))
        assert fits.all()
        assert {hue_name(picture.numpy()) for picture in turned} == {target}
        assert torch.equal(turned[..., 3], pixels[..., 3])


def test_recolour_leaves_a_picture_that_is_not_what_its_caption_says() -> None:
    pixels = torch.tensor(Toys().pixels[:4])  # red
    turned, fits = a.recolour(pixels, ["blue"] * 4, ["green"] * 4, torch.zeros(4))
    assert not fits.any()
    assert torch.equal(turned, pixels)


def test_recolour_without_a_word_for_it_asks_for_more_of_the_colour() -> None:
    pixels = torch.full((1, 16, 16, 4), 255, dtype=torch.uint8)
    pixels[0, :6, :, 1:3] = 30  # 6 of 16 rows red, the rest white
    _, fits = a.recolour(pixels, ["red"], ["blue"], torch.zeros(1))
    _, unnamed = a.recolour(pixels, [a.UNNAMED], ["blue"], torch.zeros(1))
    assert fits.all()
    assert not unnamed.any()


def test_a_brown_picture_turned_to_red_is_as_bright_as_a_red_one() -> None:
    brown = np.zeros((1, 16, 16, 4), np.uint8)
    brown[:, 4:12, 4:12] = (121, 75, 40, 255)
    for told in ("brown", a.UNNAMED):
        turned, fits = a.recolour(torch.tensor(brown), [told], ["red"], torch.zeros(1))
        assert fits.all()
        assert hue_name(turned[0].numpy()) == "red"
        assert int(turned[0, 8, 8, 0]) > 170


def test_recolour_keeps_greys() -> None:
    pixels = torch.tensor(Toys().pixels[:1])
    pixels[0, :4] = torch.tensor([128, 128, 128, 255], dtype=torch.uint8)
    turned, fits = a.recolour(pixels, ["red"], ["blue"], torch.zeros(1))
    assert fits.all()
    assert torch.equal(turned[0, :4], pixels[0, :4])


@pytest.mark.parametrize(
    ("caption", "colour"),
    [
        ("a red cat", "red"),
        ("A Red cat", "red"),
        ("a red and blue flag", None),
        ("a cat", None),
        ("a black and red bird", "red"),
        ("a gold and red bird", None),
        ("a redcurrant", None),
    ],
)
def test_colour_of(caption: str, colour: str | None) -> None:
    assert a.colour_of(caption) == colour


@pytest.mark.parametrize(
    ("caption", "without"),
    [
        ("a crying cat", True),
        ("a brown cat", False),
        ("a black cat", False),
        ("a colorful parrot", False),
        ("a flag of Spain", False),
        ("a woman with medium dark skin tone", False),
        ("a person frowning", False),
        ("a redcurrant", True),
    ],
)
def test_uncoloured(caption: str, without: bool) -> None:
    assert a.uncoloured(caption) == without


def test_with_colour_puts_a_word_in() -> None:
    assert a.with_colour("a crying cat", "orange") == "an orange crying cat"
    assert a.with_colour("an owl", "red") == "a red owl"
    assert a.with_colour("crying cat, tears", "red") == "red crying cat, tears"


def test_with_colour_mends_the_article() -> None:
    assert a.with_colour("a red apple", "orange") == "an orange apple"
    assert a.with_colour("an orange apple, 3d icon", "blue") == "a blue apple, 3d icon"


@pytest.mark.parametrize(
    ("caption", "is_sided"), [("a left arrow", True), ("a bright cat", False), ("turn Right", True)]
)
def test_sided(caption: str, is_sided: bool) -> None:
    assert a.sided(caption) == is_sided


@pytest.mark.parametrize("channels", [3, 4])
def test_augment_stays_in_range_keeps_shape_and_lets_gradients_through(channels: int) -> None:
    images = to_images(torch.tensor(Toys(channels).pixels)).requires_grad_()
    out = a.augment(images, 1.0, random())
    assert out.shape == images.shape
    assert float(out.detach().abs().max()) <= 1 + 1e-5
    assert not torch.equal(out, images)
    out.sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


def test_augment_off_changes_nothing() -> None:
    images = to_images(torch.tensor(Toys().pixels))
    assert torch.equal(a.augment(images, 0.0, random()), images)


def test_augment_fills_with_transparency() -> None:
    images = torch.ones(64, 4, 32, 32)  # opaque white everywhere
    out = a.augment(images, 1.0, random())
    assert float(out[:, 3].min()) == pytest.approx(-1.0)
    gone = out[:, 3] < -0.999
    assert float(out[:, :3].movedim(1, -1)[gone].abs().max()) < 1e-3


def test_augment_hides_no_hue() -> None:
    """Mean colour of what stays opaque keeps its hue: shift, scale, cut-out and brightness only."""
    toys = Toys()
    images = to_images(torch.tensor(toys.pixels))
    out = a.augment(images, 1.0, random(3))
    for row, picture in enumerate(out):
        body = picture[3] > 0.9
        if body.sum() < 20:
            continue
        mean = picture[:3, body].mean(1)
        assert int(mean.argmax()) == int(np.argmax(COLOURS[toys.captions[row][0].split()[1]]))


def test_random_background_keeps_alpha_and_the_body() -> None:
    images = to_images(torch.tensor(Toys().pixels))
    out = a.random_background(images, 1.0, random())
    assert torch.equal(out[:, 3], images[:, 3])
    body = images[:, 3] > 0.999
    assert torch.allclose(out[:, :3].movedim(1, -1)[body], images[:, :3].movedim(1, -1)[body])
    assert float(out[:, :3].movedim(1, -1)[~body].abs().max()) > 0.1


def test_mirror() -> None:
    images = torch.arange(2 * 4 * 2 * 3).float().view(2, 4, 2, 3)
    out = a.mirror(images, torch.tensor([True, False]))
    assert torch.equal(out[0], images[0].flip(2))
    assert torch.equal(out[1], images[1])


def test_a_slip_changes_one_thing() -> None:
    pen = np.random.default_rng(0)
    slips = {a.slip("a banana", pen) for _ in range(200)}
    assert all(abs(len(text) - len("a banana")) <= 1 for text in slips)
    assert {"a bananas", "a baana", "a bannana"} <= slips
    assert a.slip("cat", pen) == "cat"


def test_what_is_turned_has_the_colour_that_its_caption_names() -> None:
    """Shaded pictures of many hues, dark and light, to every colour: what a person would call it."""
    stream = np.random.default_rng(0)
    light = np.linspace(0.55, 1.0, 32)[:, None] * np.ones((1, 32))  # shaded from top to bottom
    hues = np.linspace(-0.03, 0.03, 32)[None] * np.ones((32, 1))  # and of other hues left and right
    made: list[np.ndarray] = []
    for hue, value in ((0.0, 0.5), (0.1, 0.95), (0.33, 0.6), (0.6, 0.8), (0.75, 0.4), (0.93, 0.9)):
        saturation = stream.uniform(0.6, 0.9, (32, 32))
        n = np.array([5, 3, 1])
        k = (n + ((hue + hues) % 1)[..., None] * 6) % 6
        bright = (light * value)[..., None]
        colour = bright - bright * saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1)
        made.append((255 * np.concatenate([colour, np.ones((32, 32, 1))], axis=2)).astype(np.uint8))
    pixels = torch.from_numpy(np.stack(made))
    for target in a.COLOURS:
        rows = [a.UNNAMED] * len(pixels)
        turned, fits = a.recolour(pixels, rows, [target] * len(pixels), torch.zeros(len(pixels)))
        assert fits.all()
        assert [hue_name(picture) for picture in turned.numpy()] == [target] * len(pixels), target
