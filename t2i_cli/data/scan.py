"""A path -> a `DataReport`: every picture decoded once, every fault grouped with its mend."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from t2i_cli.data.layouts import CaptionsFrom, Source, find, read_records
from t2i_cli.data.reading import Read, read_pictures
from t2i_cli.data.report import DataReport, Problems, Record

__all__ = ["Gathered", "note_left_out", "scan"]

_WORD = re.compile(r"\w+")
_PROBE = 32  # px; check looks at pixels only to see that they can be read


class Gathered:
    """Takes what was read one picture at a time and ends as a `DataReport`."""

    def __init__(self, source: Source, problems: Problems, min_size: int) -> None:
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
            self._problems.add("unreadable", read.error, "file cannot be read|files cannot be read", "list them: t2i check DATA --json")
            return False
        side = max(read.picture.width, read.picture.height)
        if side < self._min_size:
            self._problems.add("small", f"{name}: {read.picture.width} x {read.picture.height} px",
                               f"smaller than {self._min_size} px", "they are enlarged", severity="warning")  # fmt: skip
        if (first := self._first_with.setdefault(read.sha256, name)) != name:
            self._problems.add("duplicate", f"{name} = {first}", "duplicate image|duplicate images",
                               "give one image several captions instead", severity="warning")  # fmt: skip
        self._sides.append(side)
        self.with_alpha += read.picture.has_alpha
        self.records.append(read.record)
        self.hashes.append(read.sha256)
        return True

    def report(self) -> DataReport:
        """What was found in all."""
        seen: set[str] = set()
        for record in self.records:
            for caption in record.captions:
                seen.update(_WORD.findall(caption.lower()))
        sides = sorted(self._sides)
        splits = Counter(record.split for record in self.records if record.split)
        if not self.records and not any(problem.severity == "error" for problem in self._problems.listed()):
            self._problems.add("empty", "", "no picture with a caption was found", "see docs/data.md for the four layouts", fatal=True)
        return DataReport(
            path=str(self._source.path),
            layout=self._source.phrase,
            pairs=len(self.records),
            captions=sum(len(record.captions) for record in self.records),
            words=len(seen),
            problems=self._problems.listed(),
            with_alpha=self.with_alpha,
            sizes={"smallest": sides[0], "median": sides[len(sides) // 2], "largest": sides[-1]} if sides else {},
            splits=dict(splits),
            records=tuple(self.records),
        )


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
        captions_from: the layout, where it is not to be found by looking; ``folder`` takes folder names as captions.
        caption_key: the key of the captions in a metadata file or JSON sidecar.
        min_size: px; pictures whose long side is under it are counted in a warning.
        progress: called with (done, total) pictures now and then.

    Raises:
        DataError: there is nothing at the path, or it may not be read. Faults inside the data are in the report.
    """
    source = find(Path(path), captions_from)
    problems = Problems()
    records = read_records(source, problems, caption_key)
    note_left_out(source, problems)
    gathered = Gathered(source, problems, min_size)
    for read in read_pictures(records, _PROBE, progress):
        gathered.add(read)
    return gathered.report()


def note_left_out(source: Source, problems: Problems) -> None:
    """Warn of files of another layout, which are not read."""
    for name in source.left_out:
        problems.add("left-out", name, f"file beside the {source.phrase} is left out|files beside the {source.phrase} are left out",
                     "check them apart", severity="warning")  # fmt: skip

