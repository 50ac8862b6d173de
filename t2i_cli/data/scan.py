"""A path -> a `DataReport`: every picture decoded once, every fault grouped with its mend."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from t2i_cli.data.folders import read_class_folders, read_sidecars
from t2i_cli.data.layouts import CaptionsFrom, Source, find
from t2i_cli.data.metadata import read_metadata
from t2i_cli.data.reading import Read, read_pictures
from t2i_cli.data.report import DataReport, Problems, Record
from t2i_cli.data.shards import read_shards

__all__ = ["Gathered", "read_records", "scan"]

_WORD = re.compile(r"\w+")


class Gathered:
    """Takes what was read one picture at a time and ends as a `DataReport`."""

    def __init__(
        self, source: Source, problems: Problems, min_size: int, *, drawn: bool = False
    ) -> None:
        self._drawn = drawn  # whether pictures that t2i drew are wanted
        self._source = source
        self._problems = problems
        self._min_size = min_size
        self._first_with: dict[str, str] = {}
        self._sides: list[int] = []
        self.records: list[Record] = []
        self.hashes: list[str] = []  # SHA-256 of each record's file
        self.with_alpha = 0

    def add(self, read: Read) -> bool:
        """Note one picture; whether it can be used."""
        name = read.record.name
        if read.picture is None:
            mend = f"list them: t2i check {self._source.path} --json"
            self._problems.add("unreadable", read.error, mend=mend)
            return False
        if read.own and not self._drawn:
            self._problems.add("skipped-member", f"{name}: t2i drew it")
            return False
        side = max(read.picture.width, read.picture.height)
        if side < self._min_size:
            size = f"{name}: {read.picture.width} x {read.picture.height} px"
            self._problems.add("small", size, what=f"smaller than {self._min_size} px")
        if (first := self._first_with.setdefault(read.sha256, name)) != name:
            self._problems.add("duplicate", f"{name} = {first}")
        self._sides.append(side)
        self.with_alpha += read.picture.has_alpha
        self.records.append(read.record)
        self.hashes.append(read.sha256)
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
        return DataReport(
            path=str(self._source.path),
            layout=self._source.phrase,
            pairs=len(self.records),
            captions=sum(len(record.captions) for record in self.records),
            words=len(words),
            problems=self._problems.listed(),
            with_alpha=self.with_alpha,
            sizes=sizes,
            splits=dict(Counter(record.split for record in self.records if record.split)),
            records=tuple(self.records),
        )


def read_records(
    source: Source, problems: Problems, caption_key: str | None = None
) -> list[Record]:
    """The pictures that have a caption; what does not fit goes to ``problems``."""
    for name in source.left_out:
        problems.add("left-out", name)
    for name in source.links:
        problems.add("outside-link", name)
    for name in source.own:
        problems.add("own", name)
    if source.layout == "metadata":
        return read_metadata(source, problems, caption_key)
    if source.layout == "sidecar":
        return read_sidecars(source, problems)
    if source.layout == "shards":
        return read_shards(source, problems, caption_key)
    if source.layout == "folder":
        return read_class_folders(source, problems)
    problems.add(
        "empty",
        what="no picture was found",
        mend="it takes PNG, JPEG, WebP, BMP, GIF or AVIF pictures, or tar shards of them",
    )
    return []


def scan(
    path: Path | str,
    *,
    captions_from: CaptionsFrom | None = None,
    caption_key: str | None = None,
    min_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Read a data set whole and say what is in it and what is wrong with it. Writes nothing.

    Args:
        path: a folder, a tar shard or a metadata file.
        captions_from: the layout, where it is not to be found by looking; ``folder`` takes the
            names of folders as captions.
        caption_key: the key of the captions in a metadata file or JSON sidecar.
        min_size: px; pictures whose long side is under it are counted in a warning.
        progress: called with (done, total) pictures now and then.

    Raises:
        DataError: there is nothing at the path, or it may not be read. Faults inside the data are
            in the report.
    """
    source = find(Path(path), captions_from)
    problems = Problems()
    records = read_records(source, problems, caption_key)
    gathered = Gathered(source, problems, min_size)
    for read in read_pictures(records, max(min_size, 8), progress):
        gathered.add(read)
    return gathered.report()
