"""What a data set says in words -> clean captions, and what else a row says of its picture."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, cast

__all__ = [
    "CAPTION_KEYS",
    "clean",
    "from_folder",
    "from_row",
    "from_text",
    "json_object",
    "meta_of",
    "nearest",
    "split_of",
]

# the first that a row has, unless --caption-key names one
CAPTION_KEYS = ("captions", "caption", "text", "prompt")
_MAX_CHARS = 2000  # of one caption; what is longer is cut, far beyond any model's context
_MAX_META_CHARS = 500  # of one text kept beside a picture
_MAX_META_KEYS = 32


def clean(texts: Iterable[object]) -> tuple[str, ...]:
    r"""Texts with white space made one blank; empty and repeated ones dropped, the order kept.

    >>> clean(["a  red\tcat ", "", None, "a red cat", "cat"])
    ('a red cat', 'cat')
    """
    found: dict[str, None] = {}
    for text in texts:
        if isinstance(text, str) and (words := " ".join(text.split())[:_MAX_CHARS]):
            if not words.isascii():
                words = words.encode("utf-8", "replace").decode()  # JSON can hold lone surrogates
            found[words] = None
    return tuple(found)


def from_text(data: bytes) -> tuple[str, ...]:
    r"""A caption file: UTF-8, a byte order mark dropped, each line an alternative.

    >>> from_text(b"\xef\xbb\xbfa red cat\r\n\r\na cat\n")
    ('a red cat', 'a cat')

    Raises:
        ValueError: the bytes are not UTF-8.
    """
    return clean(data.decode("utf-8-sig").splitlines())


def json_object(text: str | bytes) -> dict[str, object] | None:
    """A JSON object, or None for anything else; never raises."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def from_row(row: Mapping[str, object], caption_key: str | None = None) -> tuple[str, ...]:
    """The captions of a row: a text, a list of texts, or such a list written as JSON in a text.

    >>> from_row({"text": "a cat"}), from_row({"captions": ["a cat", "cat"]})
    (('a cat',), ('a cat', 'cat'))
    >>> from_row({"description": '["a", "b"]'}, "description")
    ('a', 'b')
    """
    for key in (caption_key,) if caption_key else CAPTION_KEYS:
        value = row.get(key)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                listed: object = json.loads(value)
            except (ValueError, RecursionError):
                listed = None
            if isinstance(listed, list):
                value = cast("list[object]", listed)
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple) and (found := clean(cast("list[object]", value))):
            return found
    return ()


def from_folder(name: str) -> tuple[str, ...]:
    """The caption of a picture in a class folder: the folder's name.

    >>> from_folder("red_cat/001.jpg"), from_folder("001.jpg")
    (('red cat',), ())
    """
    return clean([PurePosixPath(name).parent.name.replace("_", " ")])


def split_of(row: Mapping[str, object]) -> str:
    """The split that a row names, or an empty text."""
    value = row.get("split")
    return value.strip()[:64] if isinstance(value, str) else ""


def meta_of(row: Mapping[str, object], leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """What else a row says (style, license, author, ...): short texts, numbers and truth values."""
    out: dict[str, Any] = {}
    unwanted = {*CAPTION_KEYS, "split", *leave_out}
    for key, value in row.items():
        if key in unwanted or len(out) >= _MAX_META_KEYS or len(key) > 64:
            continue
        if isinstance(value, str):
            out[key] = value[:_MAX_META_CHARS]
        elif isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
            out[key] = value
    return out


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of ``words`` most like ``word``, or an empty text.

    >>> nearest("captoin", ["file_name", "caption"])
    'caption'
    """
    return next(iter(difflib.get_close_matches(word, sorted(words), 1, 0.6)), "")
