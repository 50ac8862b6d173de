"""A caption file beside each picture: ``x.png`` with ``x.txt``, ``x.caption``, ``x.json`` or ``x.png.txt``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import cast

from t2i_cli.data import captions as words
from t2i_cli.data import encodings, tables
from t2i_cli.data.layouts.base import Found
from t2i_cli.data.layouts.metadata import wrong_key
from t2i_cli.data.listing import Listing
from t2i_cli.data.options import CaptionLines, ReadOptions
from t2i_cli.data.report import Problems, Record

__all__ = ["Texts", "by_key", "read", "records_of"]

_MAX_KEYS = 64  # different keys of JSON files that are remembered for a message
_NOTES = frozenset(
    (
        *("attribution", "authors", "changelog", "classes", "credits", "labels", "licence"),
        *("license", "licenses", "notes", "notice", "readme", "requirements", "robots"),
    )
)  # text files that speak of the folder, not of a picture
_LINES: dict[CaptionLines, str] = {
    "alternatives": "each line of a caption file is a caption of its own",
    "join": "the lines of a caption file are read as one caption",
    "first": "the first line of a caption file is its caption",
}


@dataclass
class _Text:
    """What one caption file holds."""

    lines: tuple[str, ...] = ()  # of a text
    row: dict[str, object] | None = None  # of JSON


@dataclass
class Texts:
    """The caption files of a set, read once each."""

    listing: Listing
    problems: Problems
    found: dict[str, _Text] = field(default_factory=dict[str, _Text])
    broken: set[str] = field(default_factory=set[str])  # cannot be read

    def load(self, names: Iterable[str]) -> None:
        """Read texts; those in a code page are told together, since a word alone tells little."""
        waiting: list[tuple[str, bytes]] = []
        for count, name in enumerate(names):
            self.listing.tell(count)
            try:
                content = self.listing.read(name)
                if name.lower().endswith(".json"):
                    self._json(name, content)
                elif encodings.detect(content):
                    self._text(name, content)
                else:
                    waiting.append((name, content))
            except (ValueError, OSError) as error:
                self._bad(name, error)
        page = encodings.legacy(content for _, content in waiting) if waiting else ""
        for name, content in waiting:
            try:
                self._text(name, content, page)
            except ValueError as error:
                self._bad(name, error)

    def _text(self, name: str, content: bytes, page: str | None = None) -> None:
        text, encoding = encodings.decode(content, page)
        if encoding != encodings.UTF8:
            tables.converted(self.problems, name, encoding)
        self.found[name] = _Text(words.lines_of(text))

    def _json(self, name: str, content: bytes) -> None:
        value = words.json_value(content)
        if isinstance(value, str | list):  # a caption, or several
            self.found[name] = _Text(row={"captions": value})
        elif isinstance(value, dict):
            self.found[name] = _Text(row=cast("dict[str, object]", value))
        else:
            raise ValueError("not a JSON object")

    def _bad(self, name: str, error: Exception) -> None:
        self.broken.add(name)
        why = "not text" if isinstance(error, UnicodeError) else error
        self.problems.add("bad-caption-file", f"{name}: {getattr(why, 'strerror', None) or why}")


def read(listing: Listing, options: ReadOptions, problems: Problems) -> Found | None:
    """The layout, where a picture has such a file."""
    groups = by_key((*listing.captions, *listing.jsons))
    paired = {image: texts for image in listing.images if (texts := _beside(image, groups))}
    if not paired and not (listing.images and options.captions_from == "sidecar"):
        return None
    records, notes = records_of(listing, paired, options, problems)
    used = {text for texts in paired.values() for text in texts}
    others = {name.rpartition(".")[0] for name in listing.foreign}  # they are told of themselves
    for text in listing.captions:
        stem = text.rpartition(".")[0]
        if text in used or stem in others or PurePosixPath(text).stem.lower() in _NOTES:
            continue
        problems.add("stray-caption-file", text)
    phrase = "images with a caption file each" if paired else "images without captions"
    return Found(phrase, records, notes=notes)


def by_key(texts: Iterable[str]) -> dict[str, list[str]]:
    """Caption files by the name of the picture that they may belong to; texts before JSON."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text.rpartition(".")[0], []).append(text)
    return groups


def _beside(image: str, groups: Mapping[str, list[str]]) -> list[str]:
    return groups.get(image.rpartition(".")[0], []) + groups.get(image, [])


def records_of(
    listing: Listing,
    paired: Mapping[str, list[str]],
    options: ReadOptions,
    problems: Problems,
    mend: Callable[[str], str] | None = None,
) -> tuple[list[Record], list[str]]:
    """A record for each picture whose caption files hold a caption, and what was decided by looking.

    Args:
        listing: the files.
        paired: picture -> its caption files.
        options: how to read them.
        problems: takes pictures without a caption, and files that cannot be read.
        mend: what to do about a picture that has none.
    """
    texts = Texts(listing, problems)
    owners: dict[str, list[str]] = {}
    for image, names in paired.items():
        for name in names:
            owners.setdefault(name, []).append(image)
    texts.load(owners)
    how = options.caption_lines or words.what_lines_are(one.lines for one in texts.found.values())
    several = any(len(one.lines) > 1 for one in texts.found.values())
    keys: dict[str, None] = {}
    records: list[Record] = []
    say = mend or _mender(listing)
    for image in listing.images:
        names = paired.get(image, [])
        captions, row = _captions(texts, names, how, options.caption_key, keys)
        if captions:
            split = words.split_of(row)
            told = words.attributes_of(row, (options.caption_key or "",))
            records.append(Record(image, captions, listing.place(image), split, told))
        elif not texts.broken.intersection(names):
            problems.add("no-caption", image, mend=say(image))
    for name, images in owners.items():
        if len(images) > 1:
            problems.add("shared-caption-file", f"{' and '.join(images[:3])} share {name}")
    if keys and not records:
        wrong_key(problems, keys, options.caption_key)
    chosen = " (chosen; --caption-lines says otherwise)" if options.caption_lines is None else ""
    return records, [_LINES[how] + chosen] if several else []


def _captions(
    texts: Texts,
    names: list[str],
    how: CaptionLines,
    caption_key: str | None,
    keys: dict[str, None],
) -> tuple[tuple[str, ...], dict[str, object]]:
    """The captions of one picture's files, and the row of its JSON file."""
    lines: tuple[str, ...] = ()
    row: dict[str, object] = {}
    for name in names:
        one = texts.found.get(name)
        if one is None:
            continue
        lines += words.from_lines(one.lines, how)
        row = row or one.row or {}
    if len(keys) < _MAX_KEYS:
        keys.update(dict.fromkeys(list(row)[:_MAX_KEYS]))
    told = words.from_row(row, caption_key)
    return (told if caption_key and row else words.clean(lines + told)), row


def _mender(listing: Listing) -> Callable[[str], str]:
    """What to do about a picture without a caption."""
    texts = frozenset(listing.captions)

    def mend(image: str) -> str:
        stem = image.rpartition(".")[0]
        if not listing.captions and len(listing.tables) == 1:
            table = listing.tables[0]
            suffix = PurePosixPath(table).suffix
            return f"if {table} holds the captions, name it metadata{suffix}"
        if f"{stem}.txt" in texts:
            return f"write a caption into {stem}.txt"
        if listing.containers:
            return f"add {stem.partition('/')[2]}.txt to the archive"
        return f"add {stem}.txt, or use --captions-from {'folder' if '/' in image else 'name'}"

    return mend
