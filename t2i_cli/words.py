"""A prompt as a model reads it: a word that none of its captions had becomes the word for it that they had.

A model of 17,000 pictures has seen "red" and "cat", and never "crimson"; what it draws of a word that it has not met is
chance. So its weights file holds the words of its captions, and other words with what they are read as
(`t2i_cli.training.vocabulary` makes that list). A word that is in neither may be a slip of the pen, two words
written as one, or one that nothing is known of, which the text encoder reads by its letters.

Known words are never changed. Imports nothing heavy and parses nothing before a word is unknown: this is part of
the start of `t2i sample`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from t2i_cli.errors import InputError

__all__ = ["LITERAL", "MAX_BYTES", "WORD", "Words", "stems"]

MAX_BYTES = 4 * 2**20  # a longer list is none of ours
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # letters of any script, with ' and - inside
SHORTEST_SLIP = 5  # letters; in shorter words one letter is too much to guess
SHORTEST_PART = 3  # letters, of a word that is written together with another
_NEXT = re.compile(r" ([^\W\d_]+)")
_NO_THINGS = frozenset(
    ["a", "an", "and", "at", "by", "for", "from", "in", "is", "of", "on", "or", "the", "to", "with"]
)
_MOST_BEFORE = 500  # words that are read by what they stand before
_LONGEST = 24  # letters of a word that is looked at for slips
_ALPHABET = 256  # letters, at most, that are tried in every place: no script of thousands of signs
_ENDINGS = (  # of a word's forms, and what its stem has in their place
    ("ies", "y"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"), ("er", ""), ("'s", ""),
)  # fmt: skip


class Words:
    """The words that a model knows, and other words with the known ones that they are read as.

    Args:
        text: a line a word. ``cat`` is known; ``kitty=cat`` is read as another, which may be several words; ``cot=``
            is a real word that is left as it is. Known words stand first, the most frequent at the top, but for lines
            with a space: ``tangerine *=orange`` says what a known word is read as before another, ``tangerine peel``
            which two it is left in.

    Raises:
        InputError: longer than 4 MiB.
    """

    def __init__(self, text: str = "") -> None:
        if len(text) > MAX_BYTES:
            raise InputError(f"a list of words of over {MAX_BYTES:,} letters")
        self._lines = "\n" + text.strip("\n") + "\n" if text.strip("\n") else ""
        self._read: dict[str, str] = {}

    @classmethod
    def of(
        cls,
        known: Iterable[str],
        others: Mapping[str, str],
        before: Mapping[str, str] | None = None,
        pairs: Iterable[str] = (),
    ) -> Words:
        """A list of known words, most frequent first, and of others with what they are read as.

        Args:
            known: words.
            others: words -> what they are read as.
            before: known words -> what they are read as before another word.
            pairs: of such a known word and another, in which it is left.
        """
        first = [f"{word} *={read}" for word, read in sorted((before or {}).items())]
        last = [f"{word}={read}" for word, read in sorted(others.items())]
        return cls("\n".join([*first, *sorted(pairs), *known, *last]))

    @classmethod
    def from_bytes(cls, data: bytes) -> Words:
        """The inverse of `to_bytes`.

        Raises:
            InputError: not UTF-8, or too long.
        """
        try:
            return cls(data[: MAX_BYTES + 1].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError("a list of words that is not UTF-8") from error

    @classmethod
    def load(cls, path: Path) -> Words:
        """The list in a file, the empty one where there is none.

        Raises:
            InputError: it cannot be read, or is no list.
        """
        try:
            return cls.from_bytes(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def to_bytes(self) -> bytes:
        """The list as a UTF-8 text file."""
        return self._lines[1:].encode()

    def __bool__(self) -> bool:
        return bool(self._lines)

    @functools.cached_property
    def known(self) -> dict[str, int]:
        """Known words and their places, 0 the most frequent."""
        lines = self._lines.split("\n")[1:-1]
        words = (line for line in lines if "=" not in line and " " not in line)
        return {word: at for at, word in enumerate(words)}

    @functools.cached_property
    def others(self) -> dict[str, str]:
        """Other words -> what they are read as, the empty string where that is themselves."""
        return {
            word: read
            for word, equals, read in (line.partition("=") for line in self._lines.split("\n"))
            if equals and " " not in word
        }

    @functools.cached_property
    def before(self) -> dict[str, str]:
        """Known words -> what they are read as before another word that they do not stand before in captions."""
        found: dict[str, str] = {}
        for line in self._lines[1:].split("\n", _MOST_BEFORE)[:-1]:
            word, star, read = line.partition(" *=")
            if star:
                found[word] = read
        return found

    def read(self, text: str) -> str:
        """A text with its unknown words as the model reads them.

        >>> words = Words.of(["a", "red", "cat", "fire", "truck"], {"crimson": "red", "kitty": "cat"})
        >>> words.read("a crimson kitty"), words.read("a red firetruck"), words.read("a 3rd Cat")
        ('a red cat', 'a red fire truck', 'a 3rd Cat')
        """
        if not self._lines:
            return text
        changed: list[str] = []

        def put(found: re.Match[str]) -> str:
            word = found.group()
            lower = word.lower().replace("’", "'")
            read = self._of(lower)
            if not read and lower in self.before:
                read = self._before(lower, text, found.end())
            if not read:
                return word
            changed.append(read)
            return read

        out = WORD.sub(put, text)
        if not changed:
            return text
        # "navy blue" is blue, not "blue blue"; "an azure hat" is "a blue hat"
        for read in dict.fromkeys(changed):
            out = re.sub(rf"\b({re.escape(read)})(?:[ -]{re.escape(read)}\b)+", r"\1", out)
            out = re.sub(
                rf"\b([Aa])n? (?={re.escape(read)}\b)", rf"\1{'n' * (read[0] in 'aeiou')} ", out
            )
        return out

    def knows_any(self, text: str) -> bool:
        """Whether any word of a text that says something is known; true where there is no list.

        >>> words = Words.of(["a", "red", "cat"], {})
        >>> words.knows_any("a red zwix"), words.knows_any("a zwix"), Words("").knows_any("zwix")
        (True, False, True)
        """
        if not self._lines:
            return True
        found = {one.group().lower().replace("’", "'") for one in WORD.finditer(text)} - _NO_THINGS
        return not found or any(f"\n{word}\n" in self._lines for word in found)

    def _before(self, word: str, text: str, end: int) -> str:
        """What a known word is read as where it ends before another; the empty string where it stays."""
        other = _NEXT.match(text, end)
        if other is None or self._line(f"{word} {other[1].lower()}") is not None:
            return ""
        return "" if other[1].lower() in _NO_THINGS else self.before[word]

    def _of(self, word: str) -> str:
        """What an unknown word is read as; the empty string where it stays."""
        if word not in self._read:
            if len(self._read) > 100_000:  # a stream of nonsense
                self._read.clear()
            self._read[word] = self._find(word)
        return self._read[word]

    def _line(self, word: str) -> str | None:
        """What the list says of a word: the empty string that it stays, None nothing."""
        if f"\n{word}\n" in self._lines:
            return ""
        at = self._lines.find(f"\n{word}=")
        if at < 0:
            return None
        start = at + len(word) + 2
        return self._lines[start : self._lines.index("\n", start)]

    def _find(self, word: str) -> str:
        told = self._line(word)
        if told is not None:
            return told
        for stem, ending in stems(word):  # "kitties", "jumped": the text encoder reads endings well
            told = self._line(stem)
            if told is not None:
                return told + "s" * ending.endswith("s") if told else ""
        parts = re.split("['-]", word)
        if len(parts) > 1:
            read = [self._line(part) for part in parts]
            spaced = any(read) or min(map(len, parts)) >= SHORTEST_PART
            if None in read or "'" in word or not spaced:
                return ""
            said = [told or part for told, part in zip(read, parts, strict=True)]
            return " ".join(word for word, _ in itertools.groupby(said))
        if len(word) > _LONGEST:
            return ""
        halves = [
            (word[:at], word[at:]) for at in range(SHORTEST_PART, len(word) + 1 - SHORTEST_PART)
        ]
        whole = [(a, b) for a, b in halves if a in self.known and b in self.known]
        if whole:
            return " ".join(min(whole, key=lambda pair: self.known[pair[0]] + self.known[pair[1]]))
        return self._mended(word) if len(word) >= SHORTEST_SLIP else ""

    @functools.cached_property
    def _letters(self) -> str:
        letters = sorted({letter for word in self.known for letter in word} - set("'-"))
        return "".join(letters) if len(letters) <= _ALPHABET else ""

    def _mended(self, word: str) -> str:
        """The most frequent word that is one slip away: a letter too few, too many, another, or two exchanged."""
        splits = [(word[:at], word[at:]) for at in range(len(word) + 1)]
        edits = {a + b[1:] for a, b in splits if b}
        edits |= {a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1}
        edits |= {a + c + b[1:] for a, b in splits if b for c in self._letters}
        edits |= {a + c + b for a, b in splits for c in self._letters}
        found = [edit for edit in edits if edit in self.known]
        if found:
            return min(found, key=lambda edit: (self.known[edit], edit))
        return next((self.others[edit] for edit in sorted(edits) if self.others.get(edit)), "")


def stems(word: str) -> list[tuple[str, str]]:
    """What a word may be a form of, and with which ending: "kitties" -> ("kitty", "ies"), ("kitti", "es"), ..."""
    found = [
        (word.removesuffix(ending) + instead, ending)
        for ending, instead in _ENDINGS
        if word.endswith(ending) and len(word) - len(ending) >= 2
    ]
    return found + [
        (stem[:-1], ending)  # "jogging" -> "jog"
        for stem, ending in found
        if ending in ("ing", "ed", "er") and len(stem) > 3 and stem[-1] == stem[-2]
    ]


LITERAL = Words()  # reads every text as it is
