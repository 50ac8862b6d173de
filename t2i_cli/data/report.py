"""What was found in a data set, and what is wrong with it: plain data for a person or a program.

`FAULTS` words every fault once: what one thing has, what many have, and what to do about it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from t2i_cli.data.options import MOST
from t2i_cli.data.place import Place
from t2i_cli.errors import visible

__all__ = ["FAULTS", "DataReport", "Fault", "Problem", "Problems", "Record"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Fault:
    """How one kind of fault is told."""

    severity: Severity  # error: something is left out
    one: str  # said of one thing
    many: str  # said of several
    mend: str = ""  # what to do about it, where the place that found it does not say better
    fatal: bool = False  # nothing is left where it is so of the whole set


FAULTS: dict[str, Fault] = {
    # nothing can be trained
    "empty": Fault("error", "nothing to read", "nothing to read", "", fatal=True),
    "no-match": Fault("error", "no row matches an image", "", "", fatal=True),
    "unknown-key": Fault("error", "no row has a caption", "", "", fatal=True),
    "unknown-file-key": Fault("error", "no row has a file_name", "", "", fatal=True),
    "bad-metadata": Fault(
        "error",
        "metadata file cannot be read",
        "metadata files cannot be read",
        "save it again as CSV or JSON lines, a row an image",
        fatal=True,
    ),
    "only-test": Fault(
        "error",
        "every image is of a test split, which is never trained on",
        "",
        "rename the folder or the split if they are meant for training",
        fatal=True,
    ),
    # pictures or rows that are left out
    "no-caption": Fault("error", "image has no caption", "images have no caption"),
    "unreadable": Fault("error", "file cannot be read", "files cannot be read"),
    "missing-image": Fault(
        "error",
        "row names an image that is not there",
        "rows name images that are not there",
        "add the image, or remove the row",
    ),
    "bad-path": Fault(
        "error",
        "row names a path outside the folder",
        "rows name paths outside the folder",
        "paths are relative to the metadata file, without .. and without https://",
    ),
    "bad-row": Fault(
        "error",
        "row cannot be read",
        "rows cannot be read",
        'write {"file_name": "a.png", "text": "a red cat"}',
    ),
    "bad-caption-file": Fault(
        "error",
        "caption file cannot be read",
        "caption files cannot be read",
        "save it as plain text, or as a JSON object",
    ),
    "ambiguous": Fault(
        "error",
        "row names an image that several files may be",
        "rows name images that several files may be",
        "write the path of the file with its folder and ending",
    ),
    "broken-link": Fault(
        "error",
        "link leads to nothing",
        "links lead to nothing",
        "link it to the file again, or copy the file here",
    ),
    "other-format": Fault(
        "error",
        "picture is in a format that is not read",
        "pictures are in a format that is not read",
        "save it as PNG, JPEG or WebP",
    ),
    "cut-shard": Fault(
        "error",
        "shard is broken or cut off",
        "shards are broken or cut off",
        "copy it again; what came before was read",
    ),
    # worth knowing
    "duplicate": Fault(
        "warning",
        "duplicate image",
        "duplicate images",
        "give one image several captions instead",
    ),
    "small": Fault("warning", "smaller image", "smaller images", "they are enlarged"),
    "shared-caption-file": Fault(
        "warning",
        "caption file belongs to several images",
        "caption files belong to several images",
        "rename one of the images and give it its own",
    ),
    "stray-caption-file": Fault(
        "warning",
        "caption file has no image",
        "caption files have no image",
        "add the image of the same name; the file is not used",
    ),
    "unlisted": Fault(
        "warning",
        "image is in no row and left out",
        "images are in no row and left out",
        "add a row for it",
    ),
    "converted": Fault(
        "warning",
        "file was read as windows-1252",
        "files were read as windows-1252",
        "if its letters look wrong, save it as UTF-8",
    ),
    "unquoted": Fault(
        "warning",
        "row has commas out of quotes, read as part of its caption",
        "rows have commas out of quotes, read as part of their captions",
    ),
    "link": Fault(
        "warning",
        "link is not followed",
        "links are not followed",
        "leave out --no-follow-links",
    ),
    "link-loop": Fault(
        "warning",
        "folder is linked again and read once",
        "folders are linked again and read once",
    ),
    "no-end-marker": Fault(
        "warning",
        "shard has no end marker and may be cut off",
        "shards have no end marker and may be cut off",
        "copy it again if samples are missing",
    ),
    "skipped-member": Fault(
        "warning",
        "thing in a shard is passed over",
        "things in shards are passed over",
        "shards hold plain files of at most 256 MB",
    ),
    "own": Fault(
        "warning",
        "thing that t2i wrote is left out",
        "things that t2i wrote are left out",
        "nothing to do: runs, caches and drawn pictures are never read as data",
    ),
    "left-out": Fault(
        "warning",
        "file of another layout is left out",
        "files of another layout are left out",
        "check it apart, or choose with --captions-from",
    ),
}


@dataclass(frozen=True)
class Record:
    """One picture with its captions, and where its bytes lie."""

    name: str  # path inside the data set, e.g. img/003.jpg, or shard.tar/key.webp
    captions: tuple[str, ...]  # alternatives, best first; at least one
    place: Place
    split: str = ""  # train, val, test, val_style, ...; empty where the data names none
    attributes: dict[str, str] = field(default_factory=dict[str, str])  # style, license, ...


@dataclass(frozen=True)
class Problem:
    """One kind of fault of one cause, with everything that has it."""

    kind: str  # a key of FAULTS
    items: tuple[str, ...]  # what has the fault, one an entry; empty where it is the whole data set
    what: str = ""  # a sentence of its own instead of the fault's, e.g. for the whole data set
    mend: str = ""  # what to do about it

    @property
    def fault(self) -> Fault:
        """How the kind is told."""
        return FAULTS[self.kind]

    @property
    def severity(self) -> Severity:
        """Errors are left out and counted as bad; warnings are not."""
        return self.fault.severity

    @property
    def count(self) -> int:
        """How many have the fault."""
        return len(self.items)

    @property
    def text(self) -> str:
        """One line, safe to print: ``66 images have no caption (img/003.jpg, ...)``."""
        if not self.items:
            return visible(self.what or self.fault.one)
        said = self.what or (self.fault.one if self.count == 1 else self.fault.many)
        more = ", ..." if self.count > 1 else ""
        return visible(f"{self.count:,} {said} ({self.items[0]}{more})")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary with every item, control characters made visible."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "fatal": self.fault.fatal,
            "count": self.count,
            "text": self.text,
            "what": visible(self.what),
            "mend": visible(self.mend),
            "items": [visible(item) for item in self.items],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Problem:
        """The inverse of `to_dict`."""
        return cls(data["kind"], tuple(data["items"]), data["what"], data["mend"])


class Problems:
    """Gathers faults by kind and cause while a data set is read."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], list[str]] = {}
        self._words: dict[tuple[str, str], tuple[str, str]] = {}

    def add(
        self, kind: str, item: str = "", *, what: str = "", mend: str = "", cause: str = ""
    ) -> None:
        """Note that ``item`` has the fault; the first one of a kind and cause words it for all.

        Args:
            kind: a key of `FAULTS`.
            item: what has the fault; empty where it is the whole data set.
            what: said instead of the fault's own words.
            mend: said instead of the fault's own mend.
            cause: things of one kind are told apart by it; numbers in it do not count.
        """
        key = (kind, re.sub(r"\d+", "0", cause))
        self._words.setdefault(key, (what, mend or FAULTS[kind].mend))
        items = self._items.setdefault(key, [])
        if item:
            items.append(item)

    def update(self, others: Problems) -> None:
        """Take over all that another one gathered."""
        for key, words in others._words.items():
            self._words.setdefault(key, words)
            self._items.setdefault(key, []).extend(others._items[key])

    def take(self, others: Problems, kind: str) -> None:
        """Take over what another one gathered of one kind."""
        for key, words in others._words.items():
            if key[0] == kind:
                self._words.setdefault(key, words)
                self._items.setdefault(key, []).extend(others._items[key])

    def count(self, kind: str) -> int:
        """How many things have a fault of this kind."""
        return sum(len(items) for (one, _), items in self._items.items() if one == kind)

    def listed(self) -> tuple[Problem, ...]:
        """The problems: errors before warnings, fatal ones first, then the most frequent."""
        found = [
            Problem(key[0], tuple(self._items[key]), *said) for key, said in self._words.items()
        ]
        return tuple(sorted(found, key=lambda one: (one.severity, not one.fault.fatal, -one.count)))


@dataclass(frozen=True)
class DataReport:
    """A data set as it was found."""

    path: str  # as given
    layout: str  # a phrase, e.g. "tar shards (4)"; empty where none was found
    pairs: int  # pictures that can be read and have a caption
    captions: int  # alternatives counted
    words: int  # different words, case aside
    problems: tuple[Problem, ...] = ()
    with_alpha: int = 0  # pictures that are not opaque
    sizes: dict[str, int] = field(default_factory=dict[str, int])  # px of the long side
    splits: dict[str, int] = field(default_factory=dict[str, int])  # pairs a split
    fitted: dict[str, int] = field(default_factory=dict[str, int])  # crop, pad, stretch -> pictures
    attributes: dict[str, int] = field(
        default_factory=dict[str, int]
    )  # name -> pictures that have it
    notes: tuple[str, ...] = ()  # what was decided by looking, in words
    max_bad: float = MOST  # share of bad pictures, 0 to 1, above which training does not go on
    records: tuple[Record, ...] = ()  # the pairs; empty in a report read back from a cache

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that leave something out."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that do not."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.pairs > 0 and not self.errors

    @property
    def bad(self) -> int:
        """How many pictures, rows or shards have something wrong with them."""
        return sum(max(1, problem.count) for problem in self.errors if problem.kind != "only-test")

    @property
    def bad_share(self) -> float:
        """The share of what was looked at that is bad, 0 to 1."""
        return self.bad / max(1, self.pairs + self.bad)

    @property
    def usable(self) -> bool:
        """Whether training may go on: there is something to train on, and not too much of the set is bad."""
        only_test = any(problem.kind == "only-test" for problem in self.errors)
        return self.pairs > 0 and not only_test and self.bad_share <= self.max_bad

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, without the records; `from_dict` is its inverse."""
        return {
            "path": visible(self.path, 4096),
            "layout": visible(self.layout),
            "ok": self.ok,
            "usable": self.usable,
            "pairs": self.pairs,
            "captions": self.captions,
            "words": self.words,
            "bad": self.bad,
            "max_bad": self.max_bad,
            "with_alpha": self.with_alpha,
            "sizes": self.sizes,
            "fitted": self.fitted,
            "splits": {visible(name): count for name, count in self.splits.items()},
            "attributes": {visible(name): count for name, count in self.attributes.items()},
            "notes": [visible(note) for note in self.notes],
            "problems": [problem.to_dict() for problem in self.problems],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DataReport:
        """The report of a dictionary made by `to_dict`."""
        problems = cast("list[dict[str, Any]]", data["problems"])
        names = ("path", "layout", "pairs", "captions", "words", "with_alpha", "sizes", "splits")
        more = ("fitted", "attributes", "max_bad")
        return cls(
            **{name: data[name] for name in (*names, *more)},
            notes=tuple(cast("list[str]", data["notes"])),
            problems=tuple(Problem.from_dict(problem) for problem in problems),
        )
