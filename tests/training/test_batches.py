"""Batches come from (seed, stage, step) alone, and captions tell the truth."""

from __future__ import annotations

import numpy as np
import torch

from t2i_cli.config import Attribute
from t2i_cli.evaluation.colours import hue_name
from t2i_cli.training.augmentation import colour_of
from t2i_cli.training.batches import Batches, seed_for
from tests.toys import STYLE, Toys, toy_tokenizer


def batches(**options: float) -> Batches:
    return Batches(
        Toys(),
        np.arange(16),
        toy_tokenizer(),
        context_length=16,
        seed=3,
        device=torch.device("cpu"),
        **options,
    )


def test_a_batch_is_told_by_its_position() -> None:
    one, other = batches(recolour=0.5, mirror=0.5), batches(recolour=0.5, mirror=0.5)
    for step in (0, 7, 3):
        a, b = one.get("flow", step, 6), other.get("flow", step, 6)
        assert a.captions == b.captions
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.tokens, b.tokens)
    assert one.get("flow", 0, 6).captions != one.get("contrastive", 0, 6).captions


def test_every_picture_comes_once_an_epoch() -> None:
    source = batches()
    drawn = [caption for step in range(4) for caption in source.get("flow", step, 4).captions]
    assert len({frozenset(text.replace(",", "").replace("a ", "").split()) for text in drawn}) == 16


def test_recoloured_captions_are_true() -> None:
    source = batches(recolour=1.0)
    changed = 0
    for step in range(8):
        batch = source.get("flow", step, 16)
        for image, caption in zip(batch.images, batch.captions, strict=True):
            pixels = ((image.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
            colour = colour_of(caption)
            assert colour is not None
            found = hue_name(pixels)
            near = {"teal": {"teal", "green", "blue"}, "pink": {"pink", "red", "purple"}}.get(
                colour, {colour}
            )
            assert found in near, (caption, found)
            changed += colour not in ("red", "green", "blue", "yellow")
    assert changed > 20


def test_slips_change_what_is_read_and_not_what_is_meant() -> None:
    plain, slipped = batches(), batches(slips=1.0)
    for step in range(4):
        a, b = plain.get("flow", step, 8), slipped.get("flow", step, 8)
        assert a.captions == b.captions  # the same pictures, captions and rows that are one text
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.text, b.text)
        read = [tuple(tokens[mask].tolist()) for tokens, mask in zip(b.tokens, b.mask, strict=True)]
        meant = [
            tuple(tokens[mask].tolist()) for tokens, mask in zip(a.tokens, a.mask, strict=True)
        ]
        assert sum(one != other for one, other in zip(read, meant, strict=True)) >= 6
        again = slipped.get("flow", step, 8)
        assert torch.equal(b.tokens, again.tokens)


def test_text_is_equal_where_captions_are() -> None:
    batch = batches().of(np.array([0, 1, 0]))
    assert batch.text.tolist()[0] == batch.text.tolist()[2] != batch.text.tolist()[1]
    assert batch.images.shape == (3, 4, 32, 32)
    assert batch.mask.dtype == torch.bool


def test_captions_are_those_of_a_place_among_the_training_pictures() -> None:
    toys = Toys()
    source = Batches(
        toys,
        np.array([9, 2]),
        toy_tokenizer(),
        context_length=16,
        seed=0,
        device=torch.device("cpu"),
    )
    assert len(source) == 2
    assert [source.captions(place) for place in (0, 1)] == [toys.captions[9], toys.captions[2]]
    source.captions(0).append("changed")
    assert source.captions(0) == toys.captions[9]  # a copy


def test_attributes_are_places_of_values_and_none_is_their_number() -> None:
    toys = Toys()
    toys.attributes[3] = {"style": "unheard-of"}
    toys.attributes[4] = {"kind": "bold"}  # another attribute's value
    toys.attributes[5] = {"size": "12"}
    order = np.array([5, 4, 3, 2, 1, 7])
    source = Batches(
        toys, order, toy_tokenizer(), context_length=16, seed=0, device=torch.device("cpu")
    )
    found = source.attributes((STYLE, Attribute("size", ("12", "9"))))
    assert found.dtype == np.int64
    assert found.tolist() == [[2, 0], [2, 2], [2, 2], [0, 2], [1, 2], [2, 2]]
    assert source.attributes(()).shape == (6, 0)


def test_tokens_are_cut_to_the_longest_caption() -> None:
    source = batches()
    tokens, mask = source.tokens(["a red ball", "ball"])
    assert tokens.shape == mask.shape
    assert tokens.shape[1] == int(mask.sum(1).max()) < 16
    assert mask[0].all()
    assert not mask[1].all()
    alone, _ = source.tokens(["ball"])
    assert torch.equal(tokens[1, : alone.shape[1]], alone[0])


def test_seed_for_tells_positions_apart() -> None:
    seeds = {seed_for(0, stage, step) for stage in ("flow", "autoencoder") for step in range(500)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
