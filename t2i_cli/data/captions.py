"""What a data set says in words -> clean captions, and what else a row says of its picture."""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import cast

from t2i_cli.data.options import CaptionLines
from t2i_cli.data.split_names import GENERIC_FOLDERS, split_name, without_split

__all__ = [
    "CAPTION_KEYS",
    "FILE_KEYS",
    "attributes_of",
    "clean",
    "from_folder",
    "from_lines",
    "from_name",
    "from_row",
    "from_value",
    "json_value",
    "key_of",
    "lines_of",
    "nearest",
    "split_of",
    "what_lines_are",
]

# the first that a row has, in any case, unless --caption-key names one
CAPTION_KEYS = ("captions", "caption", "text", "prompt", "description", "label")
_INSTEAD = ("sentences", "tags", "tag_string", "raw")  # where a row has none of those
FILE_KEYS = (
    *("file_name", "filename", "file", "path", "image", "image_name", "image_path", "filepath"),
    *("file_path", "image_file", "image_filename", "img", "img_path"),
)
_MAX_CHARS = 2000  # of one caption; what is longer is cut, far beyond any model's context
_MAX_LISTED = 20_000  # characters of a list that Python has printed
_MAX_VALUE = 500  # characters of one attribute
_MAX_ATTRIBUTES = 32
_SHORT = 3  # words; lines of so few are tags rather than sentences
_FEW = 400  # caption files that are looked at to tell what several lines are
_LITTLE = frozenset(
    (
        *("a", "an", "the", "and", "or", "of", "on", "in", "at", "to", "by", "is", "are", "has"),
        *("it", "its", "his", "her", "with", "for", "from", "into", "over"),
    )
)


def clean(texts: Iterable[object]) -> tuple[str, ...]:
    r"""Texts and numbers with white space made one blank; empty and repeated ones dropped, the order kept.

    >>> clean(["a  red\tcat ", "", None, "a red cat", 7, "cat"])
    ('a red cat', '7', 'cat')
    """
    found: dict[str, None] = {}
    for text in texts:
        if isinstance(text, int | float) and not isinstance(text, bool):
            text = _number(text)
        if isinstance(text, str) and (words := " ".join(text.split())[:_MAX_CHARS]):
            if not words.isascii():
                words = words.encode("utf-8", "replace").decode()  # JSON can hold lone surrogates
            found[words] = None
    return tuple(found)


def _number(value: float) -> str:
    """A number as people write it: 7 and not 7.0; nothing for what is none."""
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else ""
    return f"{value:.10g}" if math.isfinite(value) and abs(value) < 1e15 else ""


def lines_of(text: str) -> tuple[str, ...]:
    r"""The lines of a caption file, clean.

    >>> lines_of("a red cat\r\n\r\n a cat\n")
    ('a red cat', 'a cat')
    """
    return clean(text.splitlines())


def from_lines(lines: Sequence[str], how: CaptionLines) -> tuple[str, ...]:
    """The captions of a file's lines, as `lines_of` gives them.

    >>> from_lines(["red hat", "beard"], "join"), from_lines(["A cat sits.", "It purrs."], "join")
    (('red hat, beard',), ('A cat sits. It purrs.',))
    """
    if how == "alternatives" or len(lines) < 2:
        return tuple(lines)
    if how == "first":
        return (lines[0],)
    tags = _are_tags(lines)
    glue = [
        ", " if tags and not line.endswith((",", ".", ";", ":", "!", "?")) else " "
        for line in lines[:-1]
    ]
    return clean(["".join(map("".join, zip(lines, [*glue, ""], strict=True)))])


def _are_tags(lines: Sequence[str]) -> bool:
    return sum(len(line.split()) for line in lines) <= _SHORT * len(lines)


def what_lines_are(files: Iterable[Sequence[str]]) -> CaptionLines:
    """What the lines of a set's caption files are: ``alternatives``, or one caption in pieces (``join``).

    Alternatives speak of the same thing, so two lines of a file share a word of it, and each
    could stand alone. Tags share hardly any, and lines of a paragraph go on where the one before
    ended.

    Args:
        files: the lines of each file; those of one line say nothing.
    """
    some = [lines for lines in files if len(lines) > 1][:_FEW]
    if not some:
        return "alternatives"
    shared = sum(_share_words(lines) for lines in some) / len(some)
    going_on = sum(_goes_on(lines) for lines in some) / len(some)
    tags = sum(_are_tags(lines) and len(lines) > 2 for lines in some) / len(some)
    if going_on > 0.3 or (tags > 0.5 and shared < 0.8):
        return "join"
    counts = Counter(len(lines) for lines in some)
    even = len(some) >= 4 and counts.most_common(1)[0][1] >= 0.9 * len(some) and max(counts) >= 3
    return "alternatives" if shared >= (0.3 if even else 0.5) else "join"


def _share_words(lines: Sequence[str]) -> float:
    """The share of a file's lines that have a word in common with another of them."""
    words = [
        {word.lower() for word in re.findall(r"\w+", line)} - _LITTLE or {line.lower()}
        for line in lines
    ]
    often = Counter(word for one in words for word in one)
    return sum(any(often[word] > 1 for word in one) for one in words) / len(lines)


def _goes_on(lines: Sequence[str]) -> bool:
    """Whether a sentence goes on from one of the lines to the next."""
    return any(
        len(line) > 30 and not line.endswith((".", "!", "?", '"')) and following[:1].islower()
        for line, following in pairwise(lines)
        if len(line) > 0.6 * max(map(len, lines)) and line.split()[0][:1].isupper()
    )


def json_value(text: str | bytes) -> object:
    """A JSON document's value, or None for anything else; never raises."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def key_of(row: Mapping[str, object], wanted: Iterable[str]) -> str | None:
    """The key of a row that is one of those wanted, case and blanks aside; the first wanted goes first.

    >>> key_of({"File_Name": "a.png", "Text": "a cat"}, ["text"])
    'Text'
    """
    known: dict[str, str] = {}
    for key in row:
        known.setdefault(key.strip().lower().replace(" ", "_"), key)
    for name in wanted:
        if name in row:
            return name
        if (found := known.get(name.lower().replace(" ", "_"))) is not None:
            return found
    return None


def from_row(row: Mapping[str, object], caption_key: str | None = None) -> tuple[str, ...]:
    """The captions of a row: a text, a number, a list of texts, or such a list written as JSON in a text.

    >>> from_row({"Text": "a cat"}), from_row({"captions": ["a cat", "cat"]})
    (('a cat',), ('a cat', 'cat'))
    >>> from_row({"description": '["a", "b"]'}), from_row({"label": 7}), from_row({"tags": ["a", "b"]})
    (('a', 'b'), ('7',), ('a, b',))
    """
    for name in (caption_key,) if caption_key else (*CAPTION_KEYS, *_INSTEAD):
        key = key_of(row, (name,))
        if key is not None and (found := from_value(row[key], tags="tag" in name)):
            return found
    return ()


def from_value(value: object, *, tags: bool = False) -> tuple[str, ...]:
    """The captions of one value; a list of tags is one caption."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        listed = _listed(value)
        value = value if listed is None else listed
    if isinstance(value, list | tuple):
        several = [
            cast("dict[str, object]", one).get("raw") if isinstance(one, dict) else one
            for one in cast("list[object]", value)
        ]
        found = clean(several)
        return clean([", ".join(found)]) if tags else found
    return clean([value])


def _listed(text: str) -> list[object] | None:
    """A list written into a text, as JSON or as Python prints one; None where it is none.

    >>> _listed('["a", "b"]'), _listed("['a', 'b']"), _listed("[a] in brackets")
    (['a', 'b'], ['a', 'b'], None)
    """
    value = json_value(text)
    if value is None and len(text) < _MAX_LISTED and "'" in text:
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return cast("list[object]", value) if isinstance(value, list) else None


def from_folder(name: str) -> tuple[str, ...]:
    """The caption of a picture in a class folder: the nearest folder that is no split and no ``images``.

    >>> from_folder("red_cat/001.jpg"), from_folder("train/dog/images/1.jpg"), from_folder("val/1.jpg")
    (('red cat',), ('dog',), ())
    """
    for part in reversed(PurePosixPath(name).parts[:-1]):
        if not split_name(part) and part.lower() not in GENERIC_FOLDERS:
            return clean([part.replace("_", " ")])
    return ()


def from_name(name: str) -> tuple[str, ...]:
    """The caption that a picture's file name is: without numbers at its end, ``_`` and ``-`` as blanks.

    >>> from_name("pets/red_cat-03.png"), from_name("a-dog (2).jpg"), from_name("train_fox_1.png")
    (('red cat',), ('a dog',), ('fox',))
    >>> from_name("0001.png")
    ()
    """
    stem = without_split(PurePosixPath(name).stem)
    words = re.sub(r"[\s_\-+.]+", " ", stem)
    words = re.sub(r"(?:\s*(?:\(\d+\)|\b\d+))+\s*$", "", words)
    words = re.sub(r"^\s*\d+\s+", "", words)
    return clean([words]) if re.search(r"[^\W\d_]", words) else ()


def split_of(row: Mapping[str, object]) -> str:
    """The split that a row names, or an empty text."""
    key = key_of(row, ("split",))
    value = row[key] if key is not None else None
    return split_name(value) or value.strip()[:64] if isinstance(value, str) else ""


def attributes_of(row: Mapping[str, object], leave_out: Iterable[str] = ()) -> dict[str, str]:
    """What else a row says (style, license, author, ...), as short texts.

    >>> attributes_of({"text": "a cat", "style": "flat", "size": 3, "split": "train"}, ["file_name"])
    {'style': 'flat', 'size': '3'}
    """
    out: dict[str, str] = {}
    unwanted = {*CAPTION_KEYS, *_INSTEAD, "split", *leave_out}
    for key, value in row.items():
        if not key or key.lower() in unwanted or key in unwanted or len(key) > 64:
            continue
        if len(out) >= _MAX_ATTRIBUTES:
            break
        if isinstance(value, bool):
            out[key] = str(value).lower()
        elif isinstance(value, str | int | float):
            text = value[:_MAX_VALUE] if isinstance(value, str) else _number(value)
            if text:
                out[key] = text.encode("utf-8", "replace").decode()
    return out


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of ``words`` most like ``word``, or an empty text.

    >>> nearest("captoin", ["file_name", "caption"])
    'caption'
    """
    return next(iter(difflib.get_close_matches(word, sorted(words), 1, 0.6)), "")
