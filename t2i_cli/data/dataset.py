"""A path -> captioned pixels for training, decoded once and memory-mapped; and their seeded order."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from t2i_cli.data.cache import Entry, cache_folder, open_entry, write_entry
from t2i_cli.data.facts import Facts, Seen
from t2i_cli.data.layouts import Source, read_source
from t2i_cli.data.options import ReadOptions
from t2i_cli.data.own import with_own
from t2i_cli.data.reading import Read, processors, read_pictures
from t2i_cli.data.report import DataReport, Record
from t2i_cli.data.scan import Gathered
from t2i_cli.data.splits import TRAIN, names_held_out, order_of
from t2i_cli.errors import DataError
from t2i_cli.images import flatten

__all__ = ["CaptionedImages", "batch_indices", "load", "loaded", "share_bad"]

_PIXELS_FORMAT = 2  # raise it when the same file gives other pixels: caches are then built again


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures and their captions."""

    pixels: np.ndarray  # memory-mapped uint8 (n, r, r, 4 or 3), straight alpha, C-contiguous
    captions: list[list[str]]  # per picture alternatives, best first, at least one
    names: list[str]
    splits: list[str]  # per picture, empty where the data names none
    attributes: list[dict[str, str]]  # per picture what else the data says: style, license, ...
    hashes: list[str]  # SHA-256 of each picture's file
    digest: str  # SHA-256 of pictures, names, captions, attributes and how they are read; not of the resolution
    report: DataReport

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.captions)

    @property
    def opaque(self) -> bool:
        """Whether no picture is transparent anywhere."""
        return self.report.with_alpha == 0

    def split(
        self, val: float = 0.02, seed: int = 0, before: Mapping[str, str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which pictures train and which are held out.

        Where the data names splits, those named ``train`` (or nothing) train and the others are
        held out, ``val_style`` first; those named ``test`` are in neither. Where it names no
        held-out one, a share is held out that depends on each file's content and the seed, so that
        adding pictures moves few others and a duplicate is never on both sides.

        Args:
            val: share to hold out where the data names no split for it, 0 to 0.5; at least one
                picture where it is positive.
            seed: decides which.
            before: SHA-256 of a picture -> ``train`` or ``val``, of a run that goes on with a
                changed set: what was trained on stays so, and what was held out too.

        Returns:
            Two int64 arrays of indices, train and val, ascending within a split; val may be empty.

        Raises:
            DataError: every picture is of a test split.
        """
        named = sorted(
            {split for split in self.splits if split not in (*TRAIN, "test")},
            key=lambda one: (one != "val_style", one),
        )
        rows = np.array([row for row, one in enumerate(self.splits) if one != "test"], np.int64)
        if not len(rows):
            raise DataError(
                f"{self.report.path}: every picture is of a test split, which is never trained on",
                "rename the folder or the split if they are meant for training",
            )
        train = self._where(*TRAIN)
        if names_held_out(self.splits):
            return self._kept(train, np.concatenate([self._where(one) for one in named]), before)
        count = min(max(1, round(val * len(rows))), len(rows) // 2) if val > 0 else 0
        if count == 0:
            return self._kept(rows, np.zeros(0, np.int64), before)
        chosen: list[int] = rows.tolist()
        order = [order_of(seed, self.hashes[row]) for row in chosen]
        last = sorted(order)[count - 1]
        out = np.array([one <= last for one in order])
        return self._kept(rows[~out], rows[out], before)

    def split_to_measure(self, val: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """As `split`, but where the data names a test split, that is what is held out.

        Args:
            val: as for `split`.
            seed: as for `split`.

        Returns:
            Two int64 arrays of indices, train and held out; train is empty where all are of a test split.
        """
        test = self._where("test")
        return (self._where(*TRAIN), test) if len(test) else self.split(val, seed)

    def _where(self, *splits: str) -> np.ndarray:
        """The indices of the pictures in these splits, int64, ascending."""
        inside = [index for index, split in enumerate(self.splits) if split in splits]
        return np.array(inside, np.int64)

    def _kept(
        self, train: np.ndarray, held_out: np.ndarray, before: Mapping[str, str] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The two sides with what a run had before kept on its side."""
        if not before:
            return train, held_out
        sides = [before.get(one) for one in self.hashes]
        to_val = np.array([side == "val" for side in sides], bool)[train]
        to_train = np.array([side == "train" for side in sides], bool)[held_out]
        return (
            np.sort(np.concatenate([train[~to_val], held_out[to_train]])),
            np.concatenate([held_out[~to_train], train[to_val]]),
        )


def load(
    path: Path | str,
    resolution: int,
    options: ReadOptions | None = None,
    *,
    image_channels: int = 4,
    cache: Path | str | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionedImages:
    """Captioned pictures at one resolution, from the cache where it has them, else decoded into it.

    Args:
        path: a folder, an archive or a metadata file.
        resolution: px, the side of the squares.
        options: how to read it.
        image_channels: 4 keeps alpha, which is 255 everywhere in an opaque picture; 3 flattens on white.
        cache: folder of the cache; None takes ``T2I_CACHE`` or the platform's.
        workers: threads that decode; 0: as many as there are processors.
        progress: called with (done, total) pictures now and then, only while decoding.

    Raises:
        DataError: nothing there, or too much of it is bad to go on.
        OutputError: the cache cannot be written.
    """
    options = options or ReadOptions()
    facts = Facts(cache_folder(cache), Path(path))
    return loaded(
        path,
        read_source(Path(path), options, known=facts.is_data),
        facts,
        resolution,
        options,
        image_channels=image_channels,
        cache=cache,
        workers=workers,
        progress=progress,
    )


def loaded(
    path: Path | str,
    source: Source,
    facts: Facts,
    resolution: int,
    options: ReadOptions,
    *,
    image_channels: int = 4,
    cache: Path | str | None = None,
    workers: int = 0,
    drawn: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionedImages:
    """What `load` gives, of pictures that were found already.

    Args:
        path: as the user gave it.
        source: the pictures with their captions.
        facts: what is known of their files.
        resolution: px.
        options: how the source was read.
        image_channels: as for `load`.
        cache: as for `load`.
        workers: as for `load`.
        drawn: whether pictures that t2i drew are wanted: to be measured, never to be trained on.
        progress: as for `load`.

    Raises:
        DataError, OutputError: as `load`.
    """
    folder = cache_folder(cache)
    early = Gathered(str(path), [source], resolution, options, drawn=drawn)
    if not source.records:
        raise _refused(early.report())
    digest = _digest(source.records, options, facts)
    # what t2i wrote there may change while it trains, and decides nothing
    others = [problem for problem in source.problems.listed() if problem.kind != "own"]
    found = json.dumps([problem.to_dict() for problem in others])
    wanted = (
        f"{digest} {resolution} {image_channels} {_PIXELS_FORMAT} {options.max_bad} {drawn} {found}"
    )
    key = hashlib.sha256(wanted.encode()).hexdigest()
    entry = open_entry(folder, key)
    if entry is None:

        def fill(file: BinaryIO) -> tuple[tuple[int, ...], dict[str, Any]]:
            gathered = early
            reads = read_pictures(source.records, resolution, progress, workers, options.fit)
            _fill(file, gathered, _noted(reads, facts), image_channels)
            report = gathered.report()
            # one that holds nothing to train on can still be measured with
            if report.pairs == 0 or report.bad_share > options.max_bad:
                raise _refused(report)
            shape = (report.pairs, resolution, resolution, image_channels)
            return shape, _index(gathered, report)

        entry = write_entry(folder, key, fill)
        facts.keep(source.records)
    return _from_entry(entry, digest, str(path), source)


def _noted(reads: Iterator[Read], facts: Facts) -> Iterator[Read]:
    for read in reads:
        if read.seen.sha256 and "pip install" not in read.seen.error:
            facts.note(read.record, read.seen)
        yield read


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    # RandomState is frozen (NEP 19), so a run resumed under a later numpy keeps its order; the
    # counter keeps clear of the streams that noise is drawn from
    stream = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, 0, 1])
    return np.random.RandomState(stream).permutation(count)


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The indices of a step's batch, int64 (batch_size,), from (seed, position) alone.

    The sequence is one seeded permutation of ``range(count)`` after another; a batch is the
    ``step``-th stretch of it and may straddle two or more epochs. Costs O(count) once an epoch.
    """
    assert count > 0, count
    out = np.empty(batch_size, np.int64)
    start, filled = step * batch_size, 0
    while filled < batch_size:
        epoch, inside = divmod(start + filled, count)
        taken = min(batch_size - filled, count - inside)
        out[filled : filled + taken] = _permutation(count, seed, epoch)[inside : inside + taken]
        filled += taken
    return out


def _digest(records: Sequence[Record], options: ReadOptions, facts: Facts) -> str:
    """SHA-256 over how the set is read, and each picture's name, content, captions, split and attributes."""
    whole = hashlib.sha256(options.told().encode())
    with ThreadPoolExecutor(processors(), "t2i-hash") as pool:
        contents = pool.map(functools.partial(_content_of, facts=facts), records)
        archives: dict[str, str] = {}
        for record, content in zip(records, contents, strict=True):
            place = record.place
            if place.kind != "file":
                if place.file not in archives:
                    archives[place.file] = _hash(Path(place.file))
                content = f"{archives[place.file]} {place.offset}"
            row = [record.name, content, record.captions, record.split, record.attributes]
            whole.update(json.dumps(row).encode() + b"\n")
    return whole.hexdigest()


def _content_of(record: Record, facts: Facts) -> str:
    if record.place.kind != "file":
        return ""
    seen: Seen | None = facts.seen(record)
    return seen.sha256 if seen is not None else _hash(Path(record.place.file))


def _hash(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def _fill(file: BinaryIO, gathered: Gathered, reads: Iterator[Read], channels: int) -> None:
    """Write the pixels of every picture that could be read."""
    for read in reads:
        if gathered.add(read) and read.picture is not None:
            pixels = read.picture.pixels
            file.write((flatten(pixels) if channels == 3 else pixels).data)


def _index(gathered: Gathered, report: DataReport) -> dict[str, Any]:
    return {
        "names": [record.name for record in gathered.records],
        "captions": [record.captions for record in gathered.records],
        "splits": [record.split for record in gathered.records],
        "attributes": [record.attributes for record in gathered.records],
        "hashes": gathered.hashes,
        "report": report.to_dict(),
    }


def _from_entry(entry: Entry, digest: str, path: str, source: Source) -> CaptionedImages:
    index = entry.index
    report = with_own(DataReport.from_dict(cast("dict[str, Any]", index["report"])), source.own)
    report = replace(report, path=path, layout=source.phrase)
    return CaptionedImages(
        entry.pixels,
        index["captions"],
        index["names"],
        index["splits"],
        index["attributes"],
        index["hashes"],
        digest,
        report,
    )


def _refused(report: DataReport) -> DataError:
    """Why training does not go on, in one line with what to do."""
    worst = report.errors[0] if report.errors else None
    if worst is None:
        return DataError(f"{report.path}: no picture with a caption was found", "see docs/data.md")
    if worst.fault.fatal or not report.pairs:
        return DataError(f"{report.path}: {worst.text}", worst.mend)
    return DataError(
        f"{report.path}: {share_bad(report)}: {worst.text}",
        f"{worst.mend}; see all: t2i check {report.path}",
    )


def share_bad(report: DataReport) -> str:
    """How much of a set is bad and how much may be, in words.

    >>> share_bad(DataReport("x", "", 100, 100, 9, max_bad=0.05))
    '0% is bad, at most 5% may be'
    """
    bad, most = 100 * report.bad_share, 100 * report.max_bad
    some = f"{bad:.1f}" if 0 < bad < 10 else f"{bad:.0f}"
    return f"{some}% is bad, at most {most:.10g}% may be"
