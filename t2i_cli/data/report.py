"""What was found in a data set, and what is wrong with it: plain data that a person or a program can read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from t2i_cli.errors import visible

__all__ = ["BAD_SHARE", "DataReport", "Problem", "Problems", "Record"]

BAD_SHARE = 0.01  # training goes on when at most this share of the pictures is bad


@dataclass(frozen=True)
class Record:
    """One picture with its captions, and where its bytes lie."""

    name: str  # path inside the data set, e.g. img/003.jpg, or shard.tar/key.webp
    captions: tuple[str, ...]  # alternatives, best first; at least one
    file: str  # path of the file that holds the bytes
    offset: int = 0  # byte, of the picture inside an uncompressed or decompressed shard
    size: int = -1  # bytes, -1: the whole file
    split: str = ""  # e.g. train, val_style; empty where the data names none
    meta: dict[str, Any] = field(default_factory=dict[str, Any])  # what else the data says: style, license, ...


@dataclass(frozen=True)
class Problem:
    """One kind of fault, with everything that has it."""

    kind: str  # a stable word for programs, e.g. no-caption
    severity: Literal["error", "warning"]
    items: tuple[str, ...]  # what has the fault, one an entry
    what: str  # a sentence part for one and for many, e.g. "image has no caption|images have no caption"
    mend: str = ""  # what to do about it
    fatal: bool = False  # training never goes on, however few they are

    @property
    def count(self) -> int:
        """How many have the fault."""
        return len(self.items)

    @property
    def examples(self) -> tuple[str, ...]:
        """The first few of them."""
        return self.items[:3]

    @property
    def text(self) -> str:
        """One line, safe to print: ``66 images have no caption (img/003.jpg, ...)``."""
        one, _, many = self.what.partition("|")
        if not self.items:
            return visible(one)
        if self.count == 1 and len(self.items[0]) > 60:
            shown = self.items[0]
        else:
            shown = self.items[0] + (", ..." if self.count > 1 else "")
        return visible(f"{self.count:,} {one if self.count == 1 else many or one} ({shown})")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary with every item."""
        return {
            "kind": self.kind, "severity": self.severity, "count": self.count, "what": self.what, "mend": self.mend,
            "fatal": self.fatal, "text": self.text, "items": list(self.items),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Problem:
        """The inverse of `to_dict`."""
        return cls(data["kind"], data["severity"], tuple(data["items"]), data["what"], data["mend"], data["fatal"])


class Problems:
    """Gathers faults by kind while a data set is read."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[Literal["error", "warning"], str, str, bool]] = {}
        self._items: dict[str, list[str]] = {}

    def add(
        self,
        kind: str,
        item: str,
        what: str,
        mend: str = "",
        *,
        severity: Literal["error", "warning"] = "error",
        fatal: bool = False,
    ) -> None:
        """Note that ``item`` has the fault; the first one of a kind words it for all."""
        self._kinds.setdefault(kind, (severity, what, mend, fatal))
        items = self._items.setdefault(kind, [])
        if item:
            items.append(item)

    def listed(self) -> tuple[Problem, ...]:
        """The problems, errors first, the most frequent first."""
        found = [
            Problem(kind, severity, tuple(self._items[kind]), what, mend, fatal)
            for kind, (severity, what, mend, fatal) in self._kinds.items()
        ]
        return tuple(sorted(found, key=lambda one: (one.severity, not one.fatal, -one.count)))


@dataclass(frozen=True)
class DataReport:
    """A data set as it was found."""

    path: str  # as given
    layout: str  # a phrase: "tar shards (4)", "image folder with metadata.jsonl", ...; empty where none was found
    pairs: int  # pictures that can be read and have a caption
    captions: int  # alternatives counted
    words: int  # different words, case aside
    problems: tuple[Problem, ...] = ()
    with_alpha: int = 0  # pictures that are not opaque
    sizes: dict[str, int] = field(default_factory=dict[str, int])  # smallest, median, largest: px of the long side
    splits: dict[str, int] = field(default_factory=dict[str, int])  # pairs a split
    records: tuple[Record, ...] = ()  # the pairs, in order; empty in a report read back from a cache

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make `ok` false."""
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
        """How many pictures or rows are left out because something is wrong with them."""
        return sum(problem.count for problem in self.errors)

    @property
    def usable(self) -> bool:
        """Whether training may go on: at most 1% is bad and nothing is fatal."""
        return (
            self.pairs > 0
            and not any(problem.fatal for problem in self.errors)
            and self.bad <= BAD_SHARE * (self.pairs + self.bad)
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, without the records; `from_dict` is its inverse."""
        return {
            "path": self.path, "layout": self.layout, "ok": self.ok, "usable": self.usable, "pairs": self.pairs,
            "captions": self.captions, "words": self.words, "bad": self.bad, "with_alpha": self.with_alpha,
            "sizes": self.sizes, "splits": self.splits, "problems": [problem.to_dict() for problem in self.problems],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DataReport:
        """The report of a dictionary made by `to_dict`."""
        problems = tuple(Problem.from_dict(cast("dict[str, Any]", one)) for one in data["problems"])
        names = ("path", "layout", "pairs", "captions", "words", "with_alpha", "sizes", "splits")
        return cls(**{name: data[name] for name in names}, problems=problems)
