"""Latents of training pictures: their variants, their cache, the store, and who is whose neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli.errors import OutputError
from t2i_cli.evaluation.colours import hue_name
from t2i_cli.models import Encoder, Generator, TextEncoder, encode
from t2i_cli.pixels import to_images, to_pixels
from t2i_cli.references import CANDIDATES, ReferenceStore, quantised_keys, quantised_latents
from t2i_cli.training.augmentation import COLOURS
from t2i_cli.training.latents import (
    NEAR_COPY,
    NOT_TURNED,
    LatentSet,
    digest_of,
    encode_pictures,
    make_store,
    neighbours,
    text_features,
)
from tests.toys import Toys, toy_config, toy_tokenizer

CPU = torch.device("cpu")
WORDS = list(COLOURS)


class Shrunk(nn.Module):
    """Stands for an encoder: latents are the picture itself at 8 x 8, so that a test can look at them."""

    trunk_dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.pictures = 0

    def forward(self, images: Tensor) -> Tensor:
        self.pictures += len(images)
        return F.avg_pool2d(images, images.shape[-1] // 8) * self.scale


def encoded(
    cache: Path, encoder: nn.Module | None = None, toys: Toys | None = None, **options
) -> LatentSet:
    given = {"indices": np.arange(16), "digest": "toys", "device": CPU, **options}
    indices = given.pop("indices")
    return encode_pictures(toys or Toys(), indices, encoder or Shrunk(), cache=cache, **given)  # pyright: ignore[reportArgumentType]


# -- variants ---------------------------------------------------------------------------------


def test_originals_come_first_and_are_what_the_encoder_says(tmp_path: Path) -> None:
    toys = Toys()
    torch.manual_seed(0)
    encoder = Encoder(toy_config())
    indices = np.array([3, 14, 0, 7])
    found = encoded(tmp_path, encoder, toys, indices=indices)
    assert found.originals == 4
    assert found.pictures[:4].tolist() == [0, 1, 2, 3]
    assert found.colours[:4].tolist() == [NOT_TURNED] * 4
    assert found.latents.dtype == np.float16
    with torch.no_grad():
        expected = encoder(to_images(torch.from_numpy(toys.pixels[indices])))
    np.testing.assert_allclose(found.latents[:4].astype(np.float32), expected, atol=4e-3)
    assert len(found.latents) == len(found.pictures) == len(found.colours) > 8


def test_mirrors_are_mirrored_and_none_where_a_caption_says_a_side(tmp_path: Path) -> None:
    toys = Toys()
    toys.pixels = toys.pixels.copy()
    toys.pixels[:, :, :8] = 0  # no picture is its own mirror
    toys.captions[5] = ["a green ball", "a ball, cut off on the left"]
    found = encoded(tmp_path, toys=toys, turn=False)
    assert len(found.latents) == 16 + 15
    assert found.pictures[16:].tolist() == [place for place in range(16) if place != 5]
    assert (found.colours == NOT_TURNED).all()
    for row in range(16, 31):
        original = found.latents[found.pictures[row]]
        assert np.array_equal(found.latents[row], original[..., ::-1])
        assert not np.array_equal(found.latents[row], original)


def test_recolours_have_the_colour_that_they_are_called_by(tmp_path: Path) -> None:
    toys = Toys()
    found = encoded(tmp_path, toys=toys, mirror=False)
    turned = [row for row in range(len(found.pictures)) if found.colours[row] != NOT_TURNED]
    assert turned == list(range(16, len(found.pictures)))
    assert len(turned) >= 24
    assert len({int(found.colours[row]) for row in turned}) == len(COLOURS)
    for row in turned:
        place, word = int(found.pictures[row]), WORDS[found.colours[row]]
        told = found.captions(row, toys.captions[place])
        assert told == [text.replace(own(toys, place), word) for text in fixed(toys, place, word)]
        pixels = to_pixels(found.latents[row].astype(np.float32)[None])[0]
        near = {"teal": {"teal", "green", "blue"}, "pink": {"pink", "red", "purple"}}
        assert hue_name(pixels) in near.get(word, {word}), (place, word)


def own(toys: Toys, place: int) -> str:
    return toys.captions[place][0].split()[1]


def fixed(toys: Toys, place: int, word: str) -> list[str]:
    """Captions of a picture whose article fits a word."""
    article = "an " if word == "orange" else "a "
    return [
        text.replace("a ", article, 1) if text[:2] == "a " else text
        for text in toys.captions[place]
    ]


def test_no_recolour_to_the_colour_that_is_there_or_away_from_another(tmp_path: Path) -> None:
    toys = Toys()
    toys.captions[2] = ["a blue bar"]  # it is red: the picture does not fit its word
    toys.captions[3] = ["a red and blue cross"]  # no one colour
    found = encoded(tmp_path, toys=toys, mirror=False)
    turned = found.pictures[16:].tolist()
    assert 2 not in turned
    assert 3 not in turned
    for row in range(16, len(found.pictures)):
        assert WORDS[found.colours[row]] != own(toys, int(found.pictures[row]))


def test_a_colour_is_put_into_captions_that_name_none(tmp_path: Path) -> None:
    toys = Toys()
    toys.captions[:4] = [["a crying cat", "cat, tears"]] * 4
    found = encoded(tmp_path, toys=toys, mirror=False)
    rows = [row for row in range(16, len(found.pictures)) if found.pictures[row] < 4]
    assert rows
    for row in rows:
        word = WORDS[found.colours[row]]
        article = "an" if word == "orange" else "a"
        told = found.captions(row, toys.captions[0])
        assert told == [f"{article} {word} crying cat", f"{word} cat, tears"]


def test_captions_of_a_row_that_was_turned_leave_out_what_names_no_colour() -> None:
    rows = LatentSet(
        np.zeros((2, 1, 1, 1), np.float16), np.zeros(2, np.int32),
        np.array([NOT_TURNED, WORDS.index("orange")], np.int16), 1,
    )  # fmt: skip
    told = ["a red cat", "cat", "a red and blue cat"]
    assert rows.captions(0, told) == told
    assert rows.captions(0, told) is not told
    assert rows.captions(1, told) == ["an orange cat"]


# -- the cache --------------------------------------------------------------------------------


def test_latents_are_encoded_once(tmp_path: Path) -> None:
    encoder = Shrunk()
    steps: list[tuple[int, int]] = []
    first = encoded(tmp_path, encoder, progress=lambda *done: steps.append(done))
    made = encoder.pictures
    assert made >= len(first.latents)
    assert steps[-1][0] == steps[-1][1] == made
    second = encoded(tmp_path, encoder, progress=lambda *_: pytest.fail("encoded again"))
    assert encoder.pictures == made
    for name in ("latents", "pictures", "colours"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert second.originals == first.originals
    assert isinstance(second.latents, np.memmap) or isinstance(second.latents.base, np.memmap)


@pytest.mark.parametrize(
    "change", ["weights", "digest", "seed", "turn", "mirror", "dtype", "damage"]
)
def test_latents_are_made_anew_where_something_changed(tmp_path: Path, change: str) -> None:
    encoder = Shrunk()
    first = encoded(tmp_path, encoder)
    made, options = encoder.pictures, {}
    expected = first.latents[:16].astype(np.float32)
    if change == "weights":
        with torch.no_grad():
            encoder.scale.mul_(0.5)
        expected = expected / 2
    elif change == "dtype":
        encoder.trunk_dtype = torch.bfloat16
    elif change == "damage":
        (file,) = tmp_path.glob("data/*/pixels.bin")
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
    else:
        options = {change: {"digest": "others", "seed": 1}.get(change, False)}
    second = encoded(tmp_path, encoder, **options)
    assert encoder.pictures > made
    np.testing.assert_allclose(second.latents[:16].astype(np.float32), expected, atol=1e-3)


def test_the_seed_says_which_recolours_are_made(tmp_path: Path) -> None:
    sets = [encoded(tmp_path / str(at), seed=seed) for at, seed in enumerate((0, 0, 1))]
    assert np.array_equal(sets[0].colours, sets[1].colours)
    assert np.array_equal(sets[0].latents, sets[1].latents)
    assert not np.array_equal(sets[0].colours, sets[2].colours)


def test_many_batches_are_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(tmp_path / "whole")
    monkeypatch.setattr("t2i_cli.training.latents.BATCH", 5)
    parts = encoded(tmp_path / "parts")
    for name in ("latents", "pictures", "colours"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        encoded(tmp_path / "file")


def test_digests_tell_weights_names_and_order_apart() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    assert digest_of(one) == digest_of(one) != digest_of(other)
    assert digest_of(one, other) != digest_of(other, one)
    assert len(digest_of(one)) == 64
    before = digest_of(one)
    with torch.no_grad():
        one.weight[0, 0] += 1e-6
    assert digest_of(one) != before


# -- texts ------------------------------------------------------------------------------------


def test_text_features_come_in_the_order_of_the_texts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = toy_tokenizer()
    encoder = TextEncoder(toy_config(vocab_size=tokenizer.vocab_size).text)
    texts = ["square, yellow", "a red ball", "bar", "a green cross", "ball", "a red ball"]

    def tokens(asked):
        return tuple(map(torch.from_numpy, tokenizer.batch(asked, 16)))

    found = text_features(texts, tokens, encoder, tmp_path)
    assert found.dtype == torch.float16
    assert found.shape == (6, 32)
    for row, text in enumerate(texts):
        with torch.no_grad():
            alone = encode(encoder, *tokens([text])).text_features[0]
        torch.testing.assert_close(found[row].float(), alone, rtol=0, atol=2e-3)
    assert torch.equal(found[1], found[5])


def test_text_features_are_read_once_and_again_where_the_encoder_changes(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    encoder = TextEncoder(toy_config(vocab_size=tokenizer.vocab_size).text)
    read: list[int] = []  # tokens of each text that the encoder reads
    encoder.register_forward_hook(lambda _, given, said: read.extend(given[1].sum(1).tolist()))

    def tokens(some: Sequence[str], length: int = 16) -> tuple[Tensor, Tensor]:
        found, mask = tokenizer.batch(some, length)
        return torch.from_numpy(found), torch.from_numpy(mask)

    texts = ["a red ball", "a bar"]
    lengths = sorted(tokens(texts)[1].sum(1).tolist())
    first = text_features(texts, tokens, encoder, tmp_path)
    assert sorted(read) == lengths
    assert torch.equal(text_features(texts, tokens, encoder, tmp_path), first)
    assert len(read) == 2
    with torch.no_grad():
        encoder.head.weight.mul_(-1)
    assert not torch.equal(text_features(texts, tokens, encoder, tmp_path), first)
    assert len(read) == 4
    text_features(texts, lambda some: tokens(some, 3), encoder, tmp_path)  # cut elsewhere
    assert read[4:] == [3, 3]


# -- the store and the neighbours -------------------------------------------------------------


class World:
    """Pictures with features and latents that a test chooses."""

    def __init__(self, rows: int, variants: int = 0, attributes: int = 0) -> None:
        random = np.random.default_rng(0)
        self.generator = Generator(toy_config())  # whitens by the square root of the width alone
        latents = random.normal(size=(rows, 16, 8, 8))
        latents -= latents.mean(1, keepdims=True)
        latents /= latents.std(1, keepdims=True)
        self.content = latents.astype(np.float16)
        self.features = F.normalize(torch.tensor(random.normal(size=(rows, 32))).float(), dim=1)
        self.attributes = np.zeros((rows, attributes), np.int64)
        self.numbers = np.arange(rows) * 10 + 3
        self.variants = variants

    def set(self) -> LatentSet:
        rows = len(self.content)
        more = np.concatenate([self.content, *[self.content[..., ::-1]] * self.variants])
        places = np.tile(np.arange(rows, dtype=np.int32), 1 + self.variants)
        return LatentSet(more, places, np.full(len(places), NOT_TURNED, np.int16), rows)

    def store(self) -> ReferenceStore:
        return make_store(self.set(), self.features, self.attributes, self.generator, self.numbers)

    def near(self, seed: int = 0) -> np.ndarray:
        told = self.features.repeat(1 + self.variants, 1)
        return neighbours(self.store(), self.set(), told, self.generator, seed)


def test_the_store_holds_every_original_and_what_finds_it() -> None:
    world = World(20, variants=1, attributes=2)
    world.attributes[:, 1] = np.arange(20) % 3
    world.generator.whiten(torch.randn(200, 32, generator=torch.Generator().manual_seed(0)))
    store = world.store()
    assert len(store) == 20
    assert np.array_equal(store.latents, quantised_latents(world.content))
    white = F.normalize(world.generator.whitened(world.features), dim=1).numpy()
    assert np.array_equal(store.keys, quantised_keys(white))
    assert [store.similarity(query).argmax() for query in white] == list(range(20))
    assert np.array_equal(store.attributes, world.attributes)
    assert store.sources.tolist() == world.numbers.tolist()
    kinds = {str(array.dtype) for array in store.arrays().values()}
    assert kinds == {"int8", "int16", "int32"}


def test_drawings_that_are_the_same_to_the_bit_have_one_source() -> None:
    world = World(12)
    world.content[7] = world.content[2]
    world.content[11] = world.content[2]
    world.content[4] = world.content[9]
    sources = world.store().sources.tolist()
    assert sources[7] == sources[11] == sources[2] == world.numbers[2]
    assert sources[9] == sources[4] == world.numbers[4]
    assert len(set(sources)) == 12 - 3


def test_no_picture_is_its_own_neighbour_nor_are_its_variants() -> None:
    world = World(40, variants=2)
    found = world.near()
    assert found.shape == (120, CANDIDATES)
    assert found.dtype == np.int32
    for row, places in enumerate(found):
        assert row % 40 not in places
        assert len(set(places.tolist())) == CANDIDATES
        assert (places >= 0).all()


def test_neighbours_are_those_whose_captions_are_nearest_in_their_order() -> None:
    world = World(40)
    cosines = (world.features @ world.features.T).fill_diagonal_(-9)
    for row, places in enumerate(world.near()):
        near = cosines[row, places.tolist()]
        assert bool((near[:-1] >= near[1:] - 0.05).all())  # nearest first, but for a little noise
        others = np.setdiff1d(np.arange(40), [row, *places])
        assert float(near.min()) >= float(cosines[row, others].max()) - 0.05


def test_the_neighbours_of_a_row_hang_on_its_own_caption() -> None:
    """A recolour is called by another colour, so it finds the pictures of that colour."""
    world = World(40, variants=1)
    told = torch.cat([world.features, world.features.roll(-5, 0)])
    found = neighbours(world.store(), world.set(), told, world.generator, 0)
    for place in range(35):
        assert found[40 + place, 0] == place + 5


def test_neither_a_copy_nor_a_near_copy_is_a_neighbour() -> None:
    world = World(30)
    world.features[1] = world.features[0]
    world.content[1] = world.content[0]  # a copy
    world.features[3] = world.features[2]
    noise = np.random.default_rng(1).normal(size=world.content[2].shape)
    world.content[3] = world.content[2] + 0.2 * noise  # a near one, of another source
    world.features[5] = world.features[4]  # the same caption, another drawing
    assert np.square((world.content[3] - world.content[2]).astype(float)).mean() < NEAR_COPY
    found = world.near()
    for a, b in ((0, 1), (2, 3)):
        assert b not in found[a]
        assert a not in found[b]
    assert found[4, 0] == 5
    assert found[5, 0] == 4


def test_pictures_of_the_same_attributes_are_nearer() -> None:
    world = World(40, attributes=1)
    random = np.random.default_rng(2)
    world.features = F.normalize(
        torch.ones(40, 32) + 0.02 * torch.tensor(random.normal(size=(40, 32))).float(), dim=1
    )  # all captions nearly the same
    world.attributes[20:] = 1
    for row, places in enumerate(world.near()):
        assert ((places < 20) == (row < 20)).all()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_few_pictures_have_few_neighbours(rows: int) -> None:
    found = World(rows).near()
    assert found.shape == (rows, CANDIDATES)
    for row, places in enumerate(found.tolist()):
        assert sorted(places[: rows - 1]) == [other for other in range(rows) if other != row]
        assert places[rows - 1 :] == [-1] * (CANDIDATES + 1 - rows)


def test_the_same_seed_finds_the_same_neighbours() -> None:
    world = World(60)
    world.features = F.normalize(torch.ones(60, 32), dim=1)  # all alike: only the noise decides
    assert np.array_equal(world.near(0), world.near(0))
    assert not np.array_equal(world.near(0), world.near(1))
