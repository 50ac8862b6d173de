"""A path -> its pictures with their captions, in whichever of the layouts people have them.

Each layout is a module with ``read(listing, options, problems)``, which gives None where the
listing is not of it. The first that gives most pictures a caption is taken; ``--captions-from``
settles what looking cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from t2i_cli.data.layouts import (
    coco,
    flickr,
    folder,
    image_parquet,
    metadata,
    name,
    parallel,
    shards,
    sidecar,
)
from t2i_cli.data.layouts.base import Found, Reader
from t2i_cli.data.listing import ARCHIVES, Listing, list_archives, list_folder
from t2i_cli.data.options import CaptionsFrom, ReadOptions
from t2i_cli.data.own import own_pictures
from t2i_cli.data.report import Problems, Record
from t2i_cli.data.split_names import split_name, splits_of
from t2i_cli.errors import DataError
from t2i_cli.images import EXTRA_SUFFIXES, SUFFIXES

__all__ = ["Source", "read_source", "with_splits"]

_TABLES: tuple[Reader, ...] = (image_parquet.read, coco.read, flickr.read, metadata.read)
_LOOSE: tuple[Reader, ...] = (*_TABLES, sidecar.read, parallel.read)
_PACKED: tuple[Reader, ...] = (*_TABLES, shards.read, parallel.read)
_ASKED: dict[CaptionsFrom, tuple[Reader, ...]] = {
    "folder": (folder.read,),
    "name": (name.read,),
    "metadata": _TABLES,
    "sidecar": (sidecar.read, parallel.read),
    "shards": (shards.read,),
}
_EXAMPLES = (
    "it reads PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF pictures, or tar and zip files of them"
)


@dataclass
class Source:
    """The pictures of a data set that have a caption, before any is decoded."""

    path: Path  # as given
    phrase: str  # the layout in words; empty where nothing was found
    records: list[Record]
    problems: Problems
    listing: Listing  # all files that were found
    notes: list[str] = field(default_factory=list[str])  # what was decided by looking

    @property
    def own(self) -> tuple[str, ...]:
        """What t2i wrote there, which is left out; folders end in ``/``."""
        return tuple(self.listing.own)


def read_source(
    path: Path,
    options: ReadOptions,
    progress: Callable[[int, int], None] | None = None,
    *,
    known: Callable[[str, str], bool] | None = None,
    drawn: bool = False,
) -> Source:
    """Find a data set's layout and read its captions; no picture is decoded.

    Args:
        path: a folder, an archive or a metadata file.
        options: how to read it.
        progress: called with (files found or read, 0) now and then.
        known: of a picture's name and file, whether it is known that t2i did not draw it.
        drawn: whether pictures that t2i drew are wanted too: to be measured, never to be trained on.

    Raises:
        DataError: nothing there, it cannot be read, or reading it needs a package that is not installed.
    """
    problems = Problems()
    try:
        listing = _listing(path, options, problems, progress)
        if not drawn:
            root = listing.root
            unknown = [
                one for one in listing.images if not known or not known(one, f"{root}/{one}")
            ]
            if ours := own_pictures(root, unknown):
                listing.pass_over_own(ours)
        for name in listing.own:
            problems.add("own", name)
        source = _read(listing, options, problems)
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read: {error.strerror}", "check who may read it"
        ) from error
    if source.records:
        source.records = with_splits(source.records, listing)
        if all(record.split == "test" for record in source.records):
            problems.add("only-test")
    elif not source.phrase:
        problems.add("empty", what="no picture was found", mend=_EXAMPLES)
    _foreign(listing, problems)
    return source


def _listing(
    path: Path,
    options: ReadOptions,
    problems: Problems,
    progress: Callable[[int, int], None] | None,
) -> Listing:
    if path.is_dir():
        return list_folder(path, problems, follow_links=options.follow_links, progress=progress)
    if not path.is_file():
        raise DataError(
            f"{path}: no such folder", "give a folder of pictures with captions, or of tar shards"
        )
    if path.name.lower().endswith(ARCHIVES):
        return list_archives(path, path.parent, [path.name], problems, progress)
    suffix = path.suffix.lower()
    alone = Listing(path, path.parent)
    if suffix in SUFFIXES or suffix in EXTRA_SUFFIXES or not alone.take(path.name) or alone.foreign:
        raise DataError(
            f"{path}: a single file, and neither an archive nor a metadata file",
            f"give its folder: {path.parent}",
        )
    found = list_folder(path.parent, problems, follow_links=options.follow_links, progress=progress)
    found.path = path
    found.captions, found.jsons, found.tables = alone.captions, alone.jsons, alone.tables
    found.archives, found.foreign = [], []
    return found


def _read(listing: Listing, options: ReadOptions, problems: Problems) -> Source:
    """The layout of a listing, or of the archives in it."""
    asked = options.captions_from
    loose = None if asked == "shards" and listing.archives else _best(listing, options)
    if listing.archives and (loose is None or not loose[0].records):
        if loose is None or not loose[0].sure:
            for image in listing.images:
                problems.add("left-out", image)
            inner = list_archives(
                listing.path, listing.root, listing.archives, problems, listing.progress
            )
            listing.containers = inner.containers
            loose = _best(inner, options)
            _foreign(inner, problems)
            if not inner.images:
                problems.add(
                    "empty",
                    what="the archives hold no picture",
                    mend="write shards with key.png and key.txt",
                )
    else:
        for archive in listing.archives:
            problems.add("left-out", archive)
    if loose is None:
        return _without(listing, options, problems)
    found, faults = loose
    problems.update(faults)
    for text in found.texts:
        if text.rpartition(".")[0] in listing.stems:
            problems.add("left-out", text)
    return Source(listing.path, found.phrase, found.records, problems, listing, found.notes)


def _without(listing: Listing, options: ReadOptions, problems: Problems) -> Source:
    """A listing of no layout: pictures without captions, or nothing."""
    if options.captions_from == "shards":
        problems.add(
            "empty",
            what="no tar shard was found",
            mend="write shards with key.png and key.txt",
        )
    if listing.containers and not listing.images:
        problems.add(
            "empty",
            what="the archives hold no picture",
            mend="write shards with key.png and key.txt",
        )
        return Source(listing.path, "an archive without pictures", [], problems, listing)
    if not listing.images:
        return Source(listing.path, "", [], problems, listing)
    records, notes = sidecar.records_of(listing, {}, options, problems)
    return Source(listing.path, "images without captions", records, problems, listing, notes)


def _best(listing: Listing, options: ReadOptions) -> tuple[Found, Problems] | None:
    """The layout that gives most pictures a caption, with what is wrong in it."""
    best: tuple[Found, Problems] | None = None
    readers = _PACKED if listing.containers else _LOOSE
    if options.captions_from:
        readers = _ASKED[options.captions_from]
    try:
        for read in readers:
            faults = Problems()
            found = read(listing, options, faults)
            if found is None:
                continue
            enough = bool(found.records) and 2 * len(found.records) >= len(listing.images)
            if found.sure or enough:
                return found, faults
            if best is None or len(found.records) > len(best[0].records):
                best = found, faults
    finally:
        listing.close()
    return best


def with_splits(records: list[Record], listing: Listing) -> list[Record]:
    """Records with the splits that folders, archives and prefixes name, where rows name none."""
    of_container = {one: _container_split(one) for one in listing.containers}
    inner = {
        record.name: record.name.removeprefix(f"{container}/")
        for record in records
        for container in [_container(record.name, listing.containers)]
    }
    named = splits_of(inner.values())
    found: list[Record] = []
    for record in records:
        container = _container(record.name, listing.containers)
        split = record.split or named.get(inner[record.name], "") or of_container.get(container, "")
        found.append(replace(record, split=split) if split != record.split else record)
    return sorted(
        found,
        key=lambda one: (one.place.file, one.place.offset) if one.place.in_order else ("", 0),
    )


def _container(record: str, containers: Sequence[str]) -> str:
    if not containers:
        return ""
    if len(containers) == 1:
        return containers[0]
    head = record
    while head:
        head = head.rpartition("/")[0]
        if head.lower().endswith(ARCHIVES):
            return head
    return ""


def _container_split(archive: str) -> str:
    stem = PurePosixPath(archive).name.lower()
    for suffix in ARCHIVES:
        stem = stem.removesuffix(suffix)
    folders = splits_of([archive]).get(archive, "")
    return folders or split_name(stem)


def _foreign(listing: Listing, problems: Problems) -> None:
    """Report pictures in formats that are not read, where a caption or nothing else says they are meant."""
    if not listing.foreign:
        return
    read = {name.rpartition(".")[0] for name in listing.images}
    captioned = {name.rpartition(".")[0] for name in (*listing.captions, *listing.jsons)}
    for file in listing.foreign:
        stem, _, suffix = file.rpartition(".")
        if stem not in read and (stem in captioned or not listing.images):
            what = f"pictures are in the format {suffix.upper()}, which is not read"
            problems.add("other-format", file, what=what, cause=suffix.lower())
