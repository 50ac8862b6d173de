"""Paths -> a `DataReport`: every picture looked at once, every fault grouped with its mend."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from t2i_cli.data.facts import Facts
from t2i_cli.data.layouts import Source, read_source
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.reading import Read, read_pictures
from t2i_cli.data.report import DataReport, Problems, Record
from t2i_cli.images import fitted

__all__ = ["Gathered", "look", "preview", "scan"]

_WORD = re.compile(r"\w+")


class Gathered:
    """Takes what was read one picture at a time and ends as a `DataReport`."""

    def __init__(
        self,
        path: str,
        sources: Sequence[Source],
        min_size: int,
        options: ReadOptions,
        *,
        drawn: bool = False,
    ) -> None:
        self._drawn = drawn  # whether pictures that t2i drew are wanted
        self._path = path
        self._sources = sources
        self._min_size = min_size
        self._options = options
        self._first_with: dict[bytes, str] = {}
        self._sides: list[int] = []
        self._fitted = Counter[str]()
        self.problems = Problems()
        self.records: list[Record] = []
        self.hashes: list[str] = []  # SHA-256 of each record's file
        self.with_alpha = 0

    def add(self, read: Read) -> bool:
        """Note one picture; whether it can be used."""
        name, seen = read.record.name, read.seen
        if seen.error:
            mend = f"list them: t2i check {self._path} --json"
            why = seen.error.removeprefix(f"{name}: ")
            if "pip install" in why:
                mend = why.partition(": ")[2]
            self.problems.add("unreadable", seen.error, mend=mend, cause=why)
            return False
        if seen.own and not self._drawn:
            self.problems.add("skipped-member", f"{name}: t2i drew it")
            return False
        side = max(seen.width, seen.height)
        if side < self._min_size:
            size = f"{name}: {seen.width} x {seen.height} px"
            self.problems.add("small", size, what=f"smaller than {self._min_size} px")
        first = self._first_with.setdefault(bytes.fromhex(seen.sha256), name)
        if first != name:
            self.problems.add("duplicate", f"{name} = {first}")
        self._sides.append(side)
        how = fitted(seen.width, seen.height, not seen.has_alpha, self._options.fit)
        if how is not None:
            self._fitted[how] += 1
        self.with_alpha += seen.has_alpha
        self.records.append(read.record)
        self.hashes.append(seen.sha256)
        return True

    def report(self) -> DataReport:
        """What was found in all."""
        words: set[str] = set()
        for record in self.records:
            for caption in record.captions:
                words.update(_WORD.findall(caption.lower()))
        sides = sorted(self._sides)
        sizes: dict[str, int] = {}
        if sides:
            sizes = {"smallest": sides[0], "median": sides[len(sides) // 2], "largest": sides[-1]}
        problems = Problems()
        for source in self._sources:
            problems.update(source.problems)
        problems.update(self.problems)
        attributes = Counter(name for record in self.records for name in record.attributes)
        return DataReport(
            path=self._path,
            layout="; ".join(dict.fromkeys(one.phrase for one in self._sources if one.phrase)),
            pairs=len(self.records),
            captions=sum(len(record.captions) for record in self.records),
            words=len(words),
            problems=problems.listed(),
            with_alpha=self.with_alpha,
            sizes=sizes,
            splits=dict(Counter(record.split for record in self.records if record.split)),
            fitted=dict(self._fitted),
            attributes=dict(attributes.most_common()),
            notes=tuple(dict.fromkeys(note for one in self._sources for note in one.notes)),
            max_bad=self._options.max_bad,
            records=tuple(self.records),
        )


def scan(
    path: Path | str | Sequence[Path | str],
    options: ReadOptions | None = None,
    *,
    min_size: int = 64,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Read a data set whole and say what is in it and what is wrong with it.

    Args:
        path: a folder, an archive or a metadata file, or several, which are read as one set.
        options: how to read it.
        min_size: px; pictures whose long side is under it are counted in a warning.
        cache: folder of the cache, where what was seen of a large set's files is kept; None writes nothing.
        progress: called with (done, total) pictures now and then; total 0 while files are looked for.

    Raises:
        DataError: there is nothing at the path, or it may not be read. Faults inside the data are
            in the report.
    """
    options = options or ReadOptions()
    if progress:
        progress(0, 0)
    paths = [Path(path)] if isinstance(path, Path | str) else [Path(one) for one in path]
    facts = [Facts(cache, one) for one in paths]
    sources = [
        _named(read_source(one, options, progress, known=known.is_data), len(paths) > 1)
        for one, known in zip(paths, facts, strict=True)
    ]
    gathered = Gathered(" ".join(map(str, paths)), sources, min_size, options)
    for known, source in zip(facts, sources, strict=True):
        for read in look(source.records, known, max(min_size, 8), options, progress):
            gathered.add(read)
        known.keep(source.records)
    return gathered.report()


def _named(source: Source, several: bool) -> Source:
    """A source whose records are told from those of others."""
    if several and source.path.is_dir():
        source.records = [
            replace(record, name=f"{source.path.name}/{record.name}") for record in source.records
        ]
    return source


def look(
    records: Sequence[Record],
    facts: Facts,
    resolution: int,
    options: ReadOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Read]:
    """What there is to know of each record's picture, in order; what is known already is not read again."""
    known = [(record, facts.seen(record)) for record in _told(records, progress)]
    unknown = [record for record, seen in known if seen is None]
    fresh = read_pictures(unknown, resolution, progress, fit=options.fit)
    for record, seen in known:
        if seen is not None:
            yield Read(record, seen, None)
            continue
        read = next(fresh)
        if read.seen.sha256 and "pip install" not in read.seen.error:
            facts.note(record, read.seen)
        yield read
    for _ in fresh:  # it says that it is done only when it is asked for more
        pass


def _told(
    records: Sequence[Record], progress: Callable[[int, int], None] | None
) -> Iterable[Record]:
    for count, record in enumerate(records):
        if progress and count % 4096 == 0:
            progress(count, len(records))
        yield record


def preview(
    report: DataReport, resolution: int, options: ReadOptions, count: int = 24
) -> tuple[np.ndarray, list[str]]:
    """What a model would see of a few pictures, evenly chosen, and their captions.

    Args:
        report: of `scan`.
        resolution: px, the side of the squares.
        options: as `scan` had them.
        count: pictures, at most.

    Returns:
        uint8 (n, resolution, resolution, 4) and n captions; n may be 0.
    """
    last, most = len(report.records) - 1, min(count, len(report.records))
    chosen = [report.records[k * last // max(1, most - 1)] for k in range(most)]
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    for read in read_pictures(chosen, resolution, fit=options.fit):
        if read.picture is not None:
            pictures.append(read.picture.pixels)
            captions.append(read.record.captions[0])
    empty = np.zeros((0, resolution, resolution, 4), np.uint8)
    return np.stack(pictures) if pictures else empty, captions
