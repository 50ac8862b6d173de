"""The concept classifier: what a picture's concept is, what is learnt, and when there is too little to learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from t2i_cli.evaluation.recognition import (
    FEWEST_CLASSES,
    concept_of,
    fit_recogniser,
    known_concepts,
)

NAMES = [f"thing {i:02}" for i in range(FEWEST_CLASSES + 2)]


def drawings(each: int, seed: int, spread: float = 0.5) -> tuple[torch.Tensor, list[str]]:
    """Pictures of each thing: a direction of its own, and noise."""
    centres = torch.randn(len(NAMES), 24, generator=torch.Generator().manual_seed(7))
    concepts = NAMES * each
    draw = torch.Generator().manual_seed(seed)
    return centres.repeat(each, 1) + spread * torch.randn(
        len(concepts), 24, generator=draw
    ), concepts


@pytest.mark.parametrize(
    ("caption", "meta", "concept"),
    [
        ("a red cat", {}, "cat"), ("A Red, green cat", {}, "red"), ("an orange", {}, "orange"),
        ("the black and white cat, flat icon", {}, "cat"), ("salt and pepper", {}, "salt and pepper"),
        ("some grey cats", {}, "cats"), ("blue", {}, "blue"), ("a red cat", {"concept": " Tom-Cat "}, "tom cat"),
        ("a red cat", {"concept": ""}, "cat"), ("a red cat", {"concept": 3}, "cat"), ("", {}, ""),
        ("ein grünes Haus", {}, "ein grünes haus"),
    ],
)  # fmt: skip
def test_the_concept_of_a_caption(caption: str, meta: dict[str, object], concept: str) -> None:
    assert concept_of(caption, meta) == concept


def test_concepts_need_three_pictures_and_a_name() -> None:
    assert known_concepts(["b"] * 3 + ["a"] * 4 + ["c"] * 2 + [""] * 9) == ["a", "b"]


def test_it_learns_what_a_nearest_centre_knows_and_holds_it_on_others() -> None:
    features, concepts = drawings(8, 0)
    found = fit_recogniser(features, concepts)
    assert found.concepts == tuple(NAMES)
    others, theirs = drawings(20, 1)
    assert float(found.hits(others, theirs, 1).mean()) > 0.95
    assert float(found.hits(others, theirs).mean()) > 0.99
    wrong = [*theirs[1:], theirs[0]]
    assert float(found.hits(others, wrong, 1).mean()) < 0.1
    chance = torch.randn(2000, 24, generator=torch.Generator().manual_seed(3))
    rate = float(found.hits(chance, (NAMES * 200)[:2000]).mean())
    assert rate == pytest.approx(5 / len(NAMES), abs=0.06)


def test_weights_point_from_the_middle_to_a_things_own_pictures() -> None:
    """The gradient of a softmax regression at zero weights, in closed form, is where they start."""
    features, concepts = drawings(8, 0)
    found = fit_recogniser(features, concepts)
    inputs = F.normalize((features - found.tensors["centre"]) / found.tensors["scale"], dim=1)
    classes = torch.tensor([NAMES.index(name) for name in concepts])
    means = torch.stack([inputs[classes == i].mean(0) for i in range(len(NAMES))])
    cosine = F.cosine_similarity(found.tensors["weight"], means - inputs.mean(0))
    assert float(cosine.min()) > 0.5


def test_unknown_concepts_are_left_out() -> None:
    features, concepts = drawings(3, 0)
    found = fit_recogniser(features, concepts)
    assert len(found.hits(features, ["?", *concepts[1:]])) == len(concepts) - 1
    assert len(found.hits(features, ["?"] * len(concepts))) == 0
    with pytest.raises(ValueError, match="none of 12 concepts has 3 pictures"):
        fit_recogniser(features[:24], concepts[:24])


def test_the_same_seed_gives_the_same_classifier() -> None:
    features, concepts = drawings(30, 0)  # more than a batch, so that the order counts
    one, same, other = (fit_recogniser(features, concepts, seed) for seed in (0, 0, 1))
    assert torch.equal(one.tensors["weight"], same.tensors["weight"])
    assert not torch.equal(one.tensors["weight"], other.tensors["weight"])
