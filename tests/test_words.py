"""How a prompt's unknown words are read: known ones never change, and nothing that a stranger types can break it."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from t2i_cli.errors import InputError
from t2i_cli.words import LITERAL, MAX_BYTES, Words

KNOWN = [
    *("a", "red", "blue", "white", "cat", "kitten", "fire", "truck", "banana", "of"),
    *("the", "two", "light", "hat", "apple", "pie", "größe", "boat"),
]
OTHERS = {
    "crimson": "red",
    "azure": "blue",
    "lemon-coloured": "white",
    "kitty": "cat",
    "spinnaker": "boat",
    "bandana": "",
    "engine": "fire truck",
}


@pytest.fixture
def words() -> Words:
    return Words.of(KNOWN, OTHERS)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a crimson kitty", "a red cat"),
        ("A Crimson, KITTY!", "A red, cat!"),
        ("an azure hat", "a blue hat"),
        ("a crimson apple of an engine", "a red apple of a fire truck"),
        ("the azure", "the blue"),
        ("a light blue azure hat", "a light blue hat"),  # not "blue blue"
        ("a blue-azure hat", "a blue hat"),
        ("a lemon-coloured cat", "a white cat"),
        ("two kitties", "two cats"),
        ("two cats", "two cats"),  # a form of a known word: the text encoder reads endings
        ("a hatted cat's hat", "a hatted cat's hat"),
        ("a firetruck", "a fire truck"),
        ("a fire-truck", "a fire truck"),
        ("a baanna", "a banana"),  # two letters exchanged
        ("a bannana", "a banana"),  # one too many
        ("a bnana", "a banana"),  # one too few
        ("a bonana", "a banana"),  # another
        ("a spinaker", "a boat"),  # a slip in a word that is read as another
        ("a bandana", "a bandana"),  # a real word, though one letter away
        ("a cta", "a cta"),  # too short to guess
        ("a bxxnxnx", "a bxxnxnx"),
        ("eine große größe", "eine größe"),
        ("猫 3D кот 🐈", "猫 3D кот 🐈"),
        ("", ""),
    ],
)
def test_what_is_read(words: Words, text: str, read: str) -> None:
    assert words.read(text) == read
    assert words.read(read) == read  # what is read needs no reading
    assert LITERAL.read(text) == text


def test_a_known_word_may_be_read_by_what_it_stands_before() -> None:
    listed = Words.of(
        ["tangerine", "hat", "peel"], {"cap": "hat"}, {"tangerine": "orange"}, ["tangerine peel"]
    )
    for text, read in (
        ("a tangerine hat", "an orange hat"),
        ("Tangerine hats", "orange hats"),
        ("a tangerine cap", "an orange hat"),
        ("a tangerine peel, tangerine", "a tangerine peel, tangerine"),
        ("a tangerine of a hat", "a tangerine of a hat"),
    ):
        assert listed.read(text) == read
    assert (listed.before, list(listed.known)) == (
        {"tangerine": "orange"},
        ["tangerine", "hat", "peel"],
    )
    again = Words.from_bytes(listed.to_bytes())
    assert (again.before, again.known, again.others) == (listed.before, listed.known, listed.others)


def test_known_words_never_change(words: Words) -> None:
    stream = random.Random(0)
    for _ in range(300):
        text = " ".join(stream.choices(KNOWN, k=stream.randint(1, 9)))
        assert words.read(text) == text
        assert words.read(text.title()) == text.title()


def test_a_list_is_its_bytes(words: Words, tmp_path: Path) -> None:
    again = Words.from_bytes(words.to_bytes())
    assert (list(again.known), again.others) == (KNOWN, OTHERS)
    assert again.to_bytes() == words.to_bytes()
    (tmp_path / "words.txt").write_bytes(words.to_bytes())
    assert Words.load(tmp_path / "words.txt").others == OTHERS
    empty = Words.load(tmp_path / "none.txt")
    assert not empty
    assert (empty.to_bytes(), empty.known, empty.others) == (b"", {}, {})
    assert empty.read("a crimson kitty") == "a crimson kitty"


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    for data, why in ((b"\xff\xfe\x00", "not UTF-8"), (b"a" * (MAX_BYTES + 1), "over")):
        with pytest.raises(InputError, match=why):
            Words.from_bytes(data)
        (tmp_path / "words.txt").write_bytes(data)
        with pytest.raises(InputError, match=r"words.txt: .*" + why):
            Words.load(tmp_path / "words.txt")
    with pytest.raises(InputError, match="cannot be read"):
        Words.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["=", "\n=\n", "a=b=c\n=\nb", "a\x00b=\x1b[31m", "a=" + "x" * 10_000, "\r\n\r\n", "a\na\na=a\n", "x=\\1\ny=\\g<0>"],
)  # fmt: skip
def test_a_hostile_list_reads_every_text(text: str) -> None:
    words = Words(text)
    for prompt in ("a x y b = \n \x00", "x" * 5000, "\\1 (?P<x>", text):
        assert isinstance(words.read(prompt), str)
    assert isinstance(Words.from_bytes(words.to_bytes()).read("a x y"), str)


def test_hostile_prompts_are_read_fast(words: Words) -> None:
    start = time.process_time()
    stream = random.Random(1)
    for _ in range(5):
        words.read("".join(chr(stream.choice([*range(32, 1500), 0x1F408])) for _ in range(4000)))
    words.read("z" * 1_000_000)
    assert words.read("crimson kitty " * 9000) == "red cat " * 9000
    words.read("a-" * 200_000)
    assert time.process_time() - start < 30


def test_an_article_fits_the_word_that_was_put_in(words: Words) -> None:
    listed = Words.of(["a", "orange", "red"], {"tangerine": "orange", "auburn": "red"})
    assert listed.read("a tangerine cat, an auburn cat") == "an orange cat, a red cat"
    assert not re.search("an? red", words.read("the crimson"))
