"""The list of words that a run makes of its captions, a table of colours, and a teacher."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F

from t2i_cli.training.vocabulary import COLOUR_NAMES, counted, nearest, words_of

CAPTIONS = [["a red cat", "Red CAT"]] * 40 + [["a gray dog’s bowl"]] * 30 + [["an emerald ring"]]


def test_words_are_counted_by_pictures() -> None:
    counts = counted(CAPTIONS)
    assert (counts["red"], counts["cat"], counts["dog's"], counts["emerald"]) == (40, 40, 30, 1)
    assert "CAT" not in counts


def test_colours_are_read_as_what_the_captions_call_them() -> None:
    words = words_of(counted(CAPTIONS))
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
    many = counted([*CAPTIONS, *[["a green hat"]] * 10])
    assert words_of(many).read("an emerald cat") == "a green cat"  # one picture has it, ten green
    assert words_of(many + Counter({"emerald": 2})).read("an emerald cat") == "an emerald cat"
    assert not words_of(Counter())


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
    assert found == {"kitty": "cat", "hound": "dog"}  # no form of a known word, nothing far off
    read = words_of(counts, found, [*words, "hounds", "kitted"])
    assert read.read("two hounds, a kitty, a moon") == "two dogs, a cat, a moon"
    assert nearest(words, taught, Counter()) == {}


def test_real_words_that_look_like_slips_are_left() -> None:
    counts = Counter({"beard": 9, "bread": 9})
    assert words_of(counts).read("a board") == "a beard"
    listed = words_of(counts, {}, ["board", "bread", "zebra", "bard"])
    assert listed.read("a board") == "a board"
    assert listed.others == {"board": ""}  # nothing that would be left anyway
    later = words_of(counts, listed.others)  # a run that starts from that model
    assert later.read("a board") == "a board"
    gone = words_of(Counter({"cup": 9}), {"mug": "cup", "dish": "plate"})
    assert gone.read("a mug, a dish") == "a cup, a dish"  # the new captions have no plate
