"""The list of words that a run makes of its captions, a table of colours, and a teacher."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from t2i_cli.training import vocabulary
from t2i_cli.training.vocabulary import COLOUR_NAMES, counted, nearest, synonyms, words_of

CAPTIONS = [["a red cat", "Red CAT"]] * 40 + [["a gray dog’s bowl"]] * 30 + [["an emerald ring"]]


def test_words_are_counted_by_pictures() -> None:
    counts = counted(CAPTIONS)
    assert (counts["red"], counts["cat"], counts["dog's"], counts["emerald"]) == (40, 40, 30, 1)
    assert "CAT" not in counts


def test_colours_are_read_as_what_the_captions_call_them() -> None:
    words = words_of(CAPTIONS)
    assert words.read("a crimson cat") == "a red cat"
    assert words.read("a blood-red cat, a cherry-coloured cat") == "a red cat, a red cat"
    assert (
        words.read("a grey cat, a slate cat, an ash-coloured cat")
        == "a gray cat, a gray cat, a gray cat"
    )
    assert words.read("a cherry cat") == "a cherry cat"  # a fruit, when it stands alone
    assert words.read("an azure cat") == "an azure cat"  # these captions have no blue
    assert words.read("an emerald cat") == "an emerald cat"  # nor green
    assert list(words.known)[:3] == ["a", "cat", "red"]  # the most frequent first
    many = [*CAPTIONS, *[["a green hat"]] * 10]
    assert words_of(many).read("an emerald cat") == "a green cat"  # one picture has it, ten green
    assert words_of([*many, *[["an emerald"]] * 9]).read("a big emerald") == "a big emerald"
    few = [*CAPTIONS, ["an emerald"], *[["a green hat"]] * 19]
    assert words_of(few).read("an emerald cat") == "an emerald cat"  # two pictures, of twenty
    assert words_of([*few, ["a green cup"]]).read("an emerald cat") == "a green cat"
    assert not words_of([])


def test_a_thing_before_another_is_its_colour() -> None:
    captions = [*CAPTIONS, *[["a tangerine"]] * 4, ["a tangerine peel"], *[["an orange hat"]] * 50]
    words = words_of(captions)
    assert words.read("a tangerine") == "a tangerine"
    assert (
        words.read("a tangerine and a hat, a tangerine 3") == "a tangerine and a hat, a tangerine 3"
    )
    assert words.read("a tangerine hat, TANGERINE hats") == "an orange hat, orange hats"
    assert words.read("a tangerine peel") == "a tangerine peel"  # as captions have it
    assert "tangerine" in words.known
    assert "tangerine peel" not in words.known
    frequent = words_of([*captions, *[["a tangerine"]] * 6])
    assert frequent.read("a tangerine hat") == "a tangerine hat"


def test_a_thesaurus_tells_what_other_words_are_read_as(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [["a face, a clock"]] * 50 + [["a hat"]] * 9 + [["a car, a dog"]] * 40
    words = words_of(captions)
    assert words.read("a timepiece, a visage, a hound") == "a clock, a face, a dog"
    assert words.read("a fedora, two automobiles") == "a hat, two cars"
    assert words.read("a quark") == "a quark"  # nothing near
    some = words_of([*captions, *[["an auto, a hound"]] * 4])
    assert some.read("an auto") == "a car"  # the same thing, with four pictures of 40
    assert some.read("a hound") == "a hound"  # one kind of it
    assert words_of([*captions, *[["an auto"]] * 10]).read("an auto") == "an auto"
    lines = {"roundel": "disk;;circle;disc", "discus": ";;;;circle"}
    monkeypatch.setattr(vocabulary, "_thesaurus", lambda: lines)
    assert synonyms(Counter({"circle": 90, "disc": 4})) == {
        "roundel": "circle",
        "discus": "circle",
    }
    assert (
        synonyms(Counter({"disc": 900, "circle": 3}))["roundel"] == "disc"
    )  # a frequent one before
    assert synonyms(Counter({"disk": 2, "roundel": 1})) == {}
    assert synonyms(Counter({"disk": 50, "circle": 90, "roundel": 4}))["roundel"] == "disk"
    assert synonyms(Counter({"circle": 90, "roundel": 4, "discus": 10})) == {}
    monkeypatch.setattr(vocabulary, "_thesaurus", lambda: {"clowder": "cat"})
    both = [["a cat, a dog"]] * 9
    assert words_of(both).read("a clowder") == "a cat"
    assert words_of(both, {"clowder": "dog"}).read("a clowder") == "a dog"  # a teacher knows better


@pytest.mark.parametrize(("line", "read"), [("", "dog"), ("cat", "cat"), (";;cat", "dog")])
def test_a_teacher_hears_what_the_thesaurus_says(
    line: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_thesaurus", lambda: {"clowder": line})
    directions = torch.eye(8)
    taught = torch.stack(
        [*directions[:6], F.normalize(0.66 * directions[0] + 0.75 * directions[1], dim=0)]
    )
    counts = Counter({"cat": 9, "dog": 9})
    words = ["cat", "dog", "house", "moon", "star", "tree", "clowder"]
    assert nearest(words, taught, counts)["clowder"] == read


def test_every_line_of_the_thesaurus_is_words() -> None:
    lines = vocabulary._thesaurus()
    assert len(lines) > 40_000
    for word, line in lines.items():
        others = [other for group in line.split(";") for other in group.split()]
        assert word.isalpha()
        assert others
        assert all(other.isalpha() and other != word for other in others)


def test_no_name_of_a_colour_is_of_two() -> None:
    names = [name for names, _ in COLOUR_NAMES.values() for name in names.split()]
    spellings = [word for words in COLOUR_NAMES for word in words]
    assert len(set(names) - set(spellings)) == len(
        [name for name in names if name not in spellings]
    )


def test_a_teacher_tells_what_other_words_are_read_as() -> None:
    counts = Counter({"cat": 50, "kitten": 4, "dog": 40, "cats": 1})
    words = ["cat", "cats", "dog", "dogs", "hound", "kitten", "kitty", "moon"]
    directions = torch.eye(8)
    features = {
        "cat": directions[0],
        "cats": directions[0],
        "kitten": directions[0] + 0.10 * directions[4],
        "kitty": directions[0] + 0.06 * directions[4],
        "dog": directions[1],
        "dogs": directions[1],
        "hound": directions[1] + 0.5 * directions[5],
        "moon": directions[2],
    }
    taught = F.normalize(
        torch.stack([features[word] for word in words]) + 3.0, dim=1
    )  # + a direction of all
    found = nearest(words, taught, counts)
    # no form of a known word, nothing far off; four pictures of a kitten, and fifty of a cat
    assert found == {"kitty": "kitten", "hound": "dog", "kitten": "cat"}
    assert "kitten" not in nearest(words, taught, counts + Counter({"kitten": 2}))
    captions = [[word] for word, count in counts.items() for _ in range(count)]
    read = words_of(captions, found, [*words, "hounds", "kitted"])
    assert read.read("two hounds, a kitty, a moon") == "two dogs, a cat, a moon"
    assert nearest(words, taught, Counter()) == {}


def test_real_words_that_look_like_slips_are_left() -> None:
    captions = [["a bearded bread"]] * 9
    assert words_of(captions).read("a beardde") == "a bearded"
    listed = words_of([["beard"], ["bread"]] * 9, {}, ["bgeard", "zebra", "bxeaxrd"])
    assert listed.read("a bgeard, a xbeard") == "a bgeard, a beard"
    assert (
        listed.read("a board, a breed") == "a board, a breed"
    )  # the thesaurus knows that they exist
    assert listed.others["bgeard"] == ""
    assert "bxeaxrd" not in listed.others  # nothing that would be left anyway
    later = words_of([["beard"], ["bread"]] * 9, listed.others)  # a run that starts from that model
    assert later.read("a bgeard") == "a bgeard"
    gone = words_of([["a cup"]] * 9, {"flurb": "cup", "glorp": "plate"})
    assert gone.read("a flurb, a glorp") == "a cup, a glorp"  # the new captions have no plate
