"""A path -> captioned pixels for training, decoded once and memory-mapped; and their seeded order."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from t2i_cli.data.cache import Entry, cache_folder, open_entry, write_entry
from t2i_cli.data.layouts import CaptionsFrom, Source, find
from t2i_cli.data.own import with_own
from t2i_cli.data.reading import processors, read_pictures
from t2i_cli.data.report import DataReport, Problems, Record
from t2i_cli.data.scan import Gathered, read_records
from t2i_cli.data.splits import order_of
from t2i_cli.errors import DataError
from t2i_cli.images import flatten

__all__ = ["CaptionedImages", "batch_indices", "digest_of", "load", "loaded"]

_PIXELS_FORMAT = 1  # raise it when the same file gives other pixels: caches are then built again
_FLATTEN_AT_ONCE = 256  # pictures


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures and their captions."""

    pixels: np.ndarray  # memory-mapped uint8 (n, r, r, 3 or 4), straight alpha, C-contiguous
    captions: list[list[str]]  # per picture alternatives, best first, at least one
    names: list[str]
    splits: list[str]  # per picture, empty where the data names none
    meta: list[dict[str, Any]]  # per picture what else the data says
    hashes: list[str]  # SHA-256 of each picture's file
    digest: str  # SHA-256 of the files, their names and the caption key; not of the resolution
    report: DataReport

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.captions)

    def split(self, val: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Which pictures train and which are held out.

        Where the data names splits, those named ``train`` (or nothing) train and the others are
        held out, ``val_style`` first. Where it names none, a share is held out that depends on each
        file's content and the seed, so that adding pictures moves few others and a duplicate is
        never on both sides.

        Args:
            val: share to hold out where the data names no split, 0 to 0.5; at least one picture
                where it is positive.
            seed: decides which.

        Returns:
            Two int64 arrays of indices, train and val, ascending within a split; val may be empty.
        """
        named = sorted(
            {split for split in self.splits if split not in ("", "train")},
            key=lambda one: (one != "val_style", one),
        )
        if named and len(set(self.splits)) > 1:
            train = self._where("train", "")
            return train, np.concatenate([self._where(split) for split in named])
        count = min(max(1, round(val * len(self))), len(self) // 2) if val > 0 else 0
        if count == 0:
            return np.arange(len(self), dtype=np.int64), np.zeros(0, np.int64)
        order = [order_of(seed, one) for one in self.hashes]
        last = sorted(order)[count - 1]
        out = np.array([one <= last for one in order])
        return np.flatnonzero(~out).astype(np.int64), np.flatnonzero(out).astype(np.int64)

    def _where(self, *splits: str) -> np.ndarray:
        """The indices of the pictures in these splits, int64, ascending."""
        inside = [index for index, split in enumerate(self.splits) if split in splits]
        return np.array(inside, np.int64)


def load(
    path: Path | str,
    resolution: int,
    *,
    image_channels: int | None = None,
    cache: Path | str | None = None,
    captions_from: CaptionsFrom | None = None,
    caption_key: str | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionedImages:
    """Captioned pictures at one resolution, from the cache where it has them, else decoded into it.

    Args:
        path: a folder, a tar shard or a metadata file.
        resolution: px, the side of the squares.
        image_channels: 4 keeps alpha, 3 flattens on white, None keeps it where most pictures have
            it.
        cache: folder of the cache; None takes ``T2I_CACHE`` or the platform's.
        captions_from: the layout, where it is not to be found by looking.
        caption_key: the key of the captions in a metadata file or JSON sidecar.
        workers: threads that decode; 0: as many as there are processors.
        progress: called with (done, total) pictures now and then, only while decoding.

    Raises:
        DataError: nothing there, or too much of it is bad to go on (over 1%, or no row matches an
            image).
        OutputError: the cache cannot be written.
    """
    source = find(Path(path), captions_from)
    return loaded(
        path,
        source,
        digest_of(source, caption_key),
        lambda problems: read_records(source, problems, caption_key),
        resolution,
        image_channels=image_channels,
        cache=cache,
        workers=workers,
        progress=progress,
    )


def loaded(
    path: Path | str,
    source: Source,
    digest: str,
    read: Callable[[Problems], list[Record]],
    resolution: int,
    *,
    image_channels: int | None = None,
    cache: Path | str | None = None,
    workers: int = 0,
    drawn: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionedImages:
    """What `load` gives, of pictures that were found already.

    Args:
        path: as the user gave it.
        source: the files.
        digest: of all that decides the records and their pixels at any resolution.
        read: the records; what does not fit goes to the problems it is given.
        resolution: px.
        image_channels: as for `load`.
        cache: as for `load`.
        workers: as for `load`.
        drawn: whether pictures that t2i drew are wanted: to be measured, never to be trained on.
        progress: as for `load`.

    Raises:
        DataError, OutputError: as `load`.
    """
    wanted = f"{digest} {resolution} {image_channels} {_PIXELS_FORMAT}{' drawn' if drawn else ''}"
    key = hashlib.sha256(wanted.encode()).hexdigest()
    folder = cache_folder(cache)
    entry = open_entry(folder, key)
    if entry is None:
        problems = Problems()
        records = read(problems)
        gathered = Gathered(source, problems, resolution, drawn=drawn)
        early = DataReport(str(path), source.phrase, len(records), 0, 0, problems.listed())
        if not early.usable:
            raise _refused(early)

        def fill(file: BinaryIO) -> tuple[tuple[int, ...], dict[str, Any]]:
            channels = _fill(file, gathered, records, resolution, image_channels, workers, progress)
            report = gathered.report()
            if not report.usable:
                raise _refused(report)
            return (report.pairs, resolution, resolution, channels), _index(gathered, report)

        entry = write_entry(folder, key, fill)
    return _from_entry(entry, digest, str(path), source.own)


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


def digest_of(source: Source, caption_key: str | None = None) -> str:
    """SHA-256 over the layout, the caption key, and the names and contents of all its files."""
    whole = hashlib.sha256(f"{source.layout} {caption_key!r}\n".encode())
    names = (*source.images, *source.texts)
    with ThreadPoolExecutor(processors(), "t2i-hash") as pool:
        for name, content in zip(
            names, pool.map(_hash, (source.root / name for name in names)), strict=True
        ):
            whole.update(f"{content} {name}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _hash(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def _fill(
    file: BinaryIO,
    gathered: Gathered,
    records: Sequence[Record],
    resolution: int,
    image_channels: int | None,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Write the pixels of every record that can be read; how many channels they have."""
    for read in read_pictures(records, resolution, progress, workers):
        if gathered.add(read) and read.picture is not None:
            pixels = read.picture.pixels
            file.write((flatten(pixels) if image_channels == 3 else pixels).data)
    channels = image_channels or (4 if 2 * gathered.with_alpha > len(gathered.records) else 3)
    if image_channels is None and channels == 3:  # known only now: flatten in place, front to back
        size = resolution * resolution
        for start in range(0, len(gathered.records), _FLATTEN_AT_ONCE):
            file.seek(start * size * 4)
            block = np.frombuffer(file.read(_FLATTEN_AT_ONCE * size * 4), np.uint8).reshape(-1, 4)
            file.seek(start * size * 3)
            file.write(flatten(block).data)
        file.truncate()
    return channels


def _index(gathered: Gathered, report: DataReport) -> dict[str, Any]:
    return {
        "names": [record.name for record in gathered.records],
        "captions": [record.captions for record in gathered.records],
        "splits": [record.split for record in gathered.records],
        "meta": [record.meta for record in gathered.records],
        "hashes": gathered.hashes,
        "report": report.to_dict(),
    }


def _from_entry(entry: Entry, digest: str, path: str, own: tuple[str, ...]) -> CaptionedImages:
    index = entry.index
    report = with_own(DataReport.from_dict(cast("dict[str, Any]", index["report"])), own)
    report = replace(report, path=path)
    return CaptionedImages(
        entry.pixels,
        index["captions"],
        index["names"],
        index["splits"],
        index["meta"],
        index["hashes"],
        digest,
        report,
    )


def _refused(report: DataReport) -> DataError:
    """Why training does not go on, in one line with what to do."""
    worst = report.errors[0] if report.errors else None
    if worst is None:
        return DataError(f"{report.path}: no picture with a caption was found", "see docs/data.md")
    if worst.fault.fatal:
        return DataError(f"{report.path}: {worst.text}", worst.mend)
    return DataError(
        f"{report.path}: {100 * report.bad_share:.0f}% is bad, at most 1% may be: {worst.text}",
        f"{worst.mend}; see all: t2i check {report.path}",
    )
