"""A path -> the files that a data set is made of, in folders or in archives. Reads names, and texts when asked.

A folder, and the tar and zip files of a set, look the same from here on: names with forward
slashes, and a place for the bytes of each. Archives are read where they lie, never extracted.
"""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, cast

from t2i_cli.data import tar, zips
from t2i_cli.data.own import RUN_FOLDERS, RUN_TEXTS, is_own_folder, is_run
from t2i_cli.data.place import Place
from t2i_cli.data.report import Problems
from t2i_cli.data.tar import Ending, Member, Skipped
from t2i_cli.images import EXTRA_SUFFIXES, MAX_FILE_BYTES, SUFFIXES

__all__ = [
    "ARCHIVES",
    "Listing",
    "archive_kind",
    "is_hidden",
    "list_archives",
    "list_folder",
    "open_archive",
]

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_CAPTIONS = (".txt", ".caption")
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".token")
# pictures that are not read: their caption files are not without a picture
_FOREIGN = frozenset(
    (
        *(".svg", ".psd", ".xcf", ".eps", ".ai", ".pdf", ".ico", ".tga", ".exr", ".hdr", ".jp2"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dds", ".pcx", ".ppm"),
        *(".mp4", ".mov", ".webm", ".apng", ".kra", ".clip"),
    )
)
_MAX_TEXT = 2**20  # bytes, of one caption file
_MAX_KEPT = (
    2**28
)  # bytes of texts that are kept of a compressed shard, which cannot be read backwards
_TELL_EVERY = 2000  # files between two calls of progress


@dataclass
class Listing:
    """The files of a data set by what they may be; names are relative, with forward slashes, sorted."""

    path: Path  # as the user gave it
    root: Path  # the folder that names are relative to
    images: list[str] = field(default_factory=list[str])
    captions: list[str] = field(default_factory=list[str])  # .txt and .caption
    jsons: list[str] = field(default_factory=list[str])
    tables: list[str] = field(default_factory=list[str])  # CSV, TSV, JSON lines, Parquet, .token
    archives: list[str] = field(default_factory=list[str])
    foreign: list[str] = field(default_factory=list[str])  # pictures in formats that are not read
    own: list[str] = field(default_factory=list[str])  # what t2i wrote: folders end in /
    containers: list[str] = field(default_factory=list[str])  # the archives that were looked into
    progress: Callable[[int, int], None] | None = None  # called with (files read, 0) now and then
    places: dict[str, Place] = field(default_factory=dict[str, Place])  # in archives
    # those of compressed shards, which cannot be read backwards
    texts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    _open: tuple[str, BinaryIO] | None = None

    @cached_property
    def stems(self) -> frozenset[str]:
        """The pictures' names, with and without their endings: what a caption file of one is called."""
        pictures = (*self.images, *self.own)
        return frozenset(
            (*pictures, *(name.rpartition(".")[0] for name in (*pictures, *self.foreign)))
        )

    def tell(self, count: int) -> None:
        """Say how many files were read, now and then."""
        if self.progress and count % _TELL_EVERY == 0:
            self.progress(count, 0)

    def place(self, name: str) -> Place:
        """Where the bytes of a file lie."""
        return self.places.get(name) or Place(f"{self.root}/{name}")

    def read(self, name: str, limit: int = _MAX_TEXT) -> bytes:
        """The bytes of a text.

        Raises:
            ValueError: it is larger than ``limit`` bytes, cut off, or no plain file.
            OSError: it cannot be read.
        """
        place = self.place(name)
        if name in self.texts:
            return self.texts[name]
        if place.kind == "file":
            with open(place.file, "rb") as file:  # noqa: PTH123 (a Path each is slow)
                state = os.fstat(file.fileno())
                if not stat.S_ISREG(state.st_mode):
                    raise ValueError("not a regular file")
                if state.st_size > limit:
                    raise ValueError(f"larger than {max(limit >> 20, 1)} MB")
                return file.read(limit + 1)
        if place.size > limit:
            raise ValueError(f"larger than {max(limit >> 20, 1)} MB")
        if self._open is None or self._open[0] != place.file:
            self.close()
            self._open = (place.file, open_archive(place.file))
        if place.kind == "tgz":
            raise ValueError("too much text in a compressed shard")
        return place.read(self._open[1])

    def close(self) -> None:
        """Close what was opened to read."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def sort(self) -> None:
        """Put every kind of file in the order of its names."""
        for kind in (self.images, self.captions, self.jsons, self.tables, self.archives):
            kind.sort()
        self.foreign.sort()
        self.own.sort()

    def pass_over_own(self, drawn: Iterable[str]) -> None:
        """Leave out these pictures, which t2i drew."""
        ours = set(drawn)
        self.images = [name for name in self.images if name not in ours]
        self.own = sorted((*self.own, *ours))

    def take(self, name: str) -> bool:
        """File a name under its kind; whether it has one."""
        lowered = name.lower()
        suffix = os.path.splitext(lowered)[1]  # noqa: PTH122
        if suffix in SUFFIXES or suffix in EXTRA_SUFFIXES:
            self.images.append(name)
        elif suffix in _CAPTIONS:
            self.captions.append(name)
        elif suffix == ".json":
            self.jsons.append(name)
        elif suffix in _TABLES:
            self.tables.append(name)
        elif lowered.endswith(ARCHIVES):
            self.archives.append(name)
        elif suffix in _FOREIGN:
            self.foreign.append(name)
        else:
            return False
        return True


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over."""
    return name.startswith(".") or name == "__MACOSX"


def list_folder(
    path: Path,
    problems: Problems,
    *,
    follow_links: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """The files under a folder, at any depth, without folders and texts that t2i wrote.

    Links are followed unless that is turned off; a folder that is reached twice is read once, so
    links that lead in a circle end.

    Args:
        path: the folder.
        problems: takes what is passed over.
        follow_links: whether symbolic links are followed.
        progress: called with (files found, 0) now and then.

    Raises:
        OSError: a folder cannot be read.
    """
    found = Listing(path, path, progress=progress)
    waiting: list[str] = [""]
    linked: list[
        str
    ] = []  # folders behind links: read last, so that what they lead to keeps its own name
    # a link to a folder above would lead back to this one
    above = [os.stat(one) for one in Path(os.path.realpath(path)).parents]  # noqa: PTH116
    seen = {(state.st_dev, state.st_ino) for state in above}
    count = 0
    while waiting or linked:
        inside = waiting.pop() if waiting else linked.pop(0)
        here = f"{path}/{inside}" if inside else str(path)
        state = os.stat(here)  # noqa: PTH116
        if inside and state.st_ino and (state.st_dev, state.st_ino) in seen:
            problems.add("link-loop", inside.rstrip("/"))
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(here) as listed:
            entries = sorted(listed, key=lambda one: one.name)
        names = {entry.name for entry in entries}
        if inside and is_own_folder(here, names):
            found.own.append(inside)
            continue
        passed = RUN_FOLDERS | RUN_TEXTS if is_run(names) else frozenset[str]()
        for entry in entries:
            name = f"{inside}{entry.name}"
            if entry.name in passed:
                found.own.append(name)
            elif not is_hidden(entry.name):
                _file(found, entry, name, waiting, linked, follow_links, problems)
                count += 1
                found.tell(count)
    found.sort()
    return found


def _file(
    found: Listing,
    entry: os.DirEntry[str],
    name: str,
    waiting: list[str],
    linked: list[str],
    follow_links: bool,
    problems: Problems,
) -> None:
    """File one entry of a folder: a folder to read later, a file of interest, or nothing."""
    if entry.is_dir(follow_symlinks=False):
        waiting.append(f"{name}/")
        return
    if not entry.is_symlink():
        if entry.is_file():  # and no pipe, which would wait for ever
            found.take(name)
        return
    of_interest = Listing(found.path, found.root).take(name)
    try:
        mode = entry.stat().st_mode
    except OSError:  # to nowhere, or in a circle
        if of_interest:
            problems.add("broken-link" if follow_links else "link", name)
        return
    if not follow_links:
        if of_interest or stat.S_ISDIR(mode):
            problems.add("link", name)
    elif stat.S_ISDIR(mode):
        linked.append(f"{name}/")
    elif stat.S_ISREG(mode):
        found.take(name)


def archive_kind(name: str) -> Literal["tar", "tgz", "zip"]:
    """What kind of archive a name is of."""
    lowered = name.lower()
    if lowered.endswith(".zip"):
        return "zip"
    return "tgz" if lowered.endswith((".gz", ".tgz")) else "tar"


def open_archive(path: str | Path) -> BinaryIO:
    """An archive's stream, decompressed where a tar is; cheap to move forwards."""
    if archive_kind(str(path)) == "tgz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    return Path(path).open("rb", buffering=1 << 18)


def list_archives(
    path: Path,
    root: Path,
    names: Iterable[str],
    problems: Problems,
    progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """The files inside archives, each name with its archive's in front; links in them are never followed.

    Args:
        path: what the user gave.
        root: the folder that the archives' names are relative to.
        names: of the archives.
        problems: takes what is passed over, and archives that are cut off.
        progress: called with (files found, 0) now and then.
    """
    found = Listing(path, root, containers=list(names), progress=progress)
    kept = 0
    for name in found.containers:
        kind = archive_kind(name)
        file = f"{root}/{name}"
        if not os.path.isfile(file):  # noqa: PTH113
            problems.add("cut-shard", f"{name}: not a regular file")
            continue
        try:
            for member, stream in _members(file, kind):
                if isinstance(member, Ending):
                    if not member.whole:
                        problems.add("cut-shard", f"{name}: {member.why}")
                    elif not member.marked:
                        problems.add("no-end-marker", name)
                    continue
                inner = member.name.removeprefix("./")
                if any(is_hidden(part) for part in inner.split("/")):
                    continue
                if isinstance(member, Skipped):
                    problems.add("skipped-member", f"{name}: {inner}: {member.why}")
                    continue
                full = sys.intern(f"{name}/{inner}")
                if full in found.places or not found.take(full):
                    continue
                found.places[full] = Place(file, member.offset, member.size, member.packed, kind)
                if stream is not None and full[-4:].lower() not in SUFFIXES and kept < _MAX_KEPT:
                    kept += _keep(found, full, member, stream)
                found.tell(len(found.places))
        except (OSError, EOFError, ValueError, zlib.error) as error:  # of the decompression too
            problems.add("cut-shard", f"{name}: {getattr(error, 'strerror', None) or error}")
    return found


def _members(file: str, kind: str) -> Iterable[tuple[Member | Skipped | Ending, BinaryIO | None]]:
    """What an archive holds; with the stream to read texts from where it cannot be moved back later."""
    if kind == "zip":
        for member in zips.members(Path(file), MAX_FILE_BYTES):
            yield member, None
        return
    length = -1 if kind == "tgz" else os.stat(file).st_size  # noqa: PTH116
    with open_archive(file) as stream:
        for member in tar.members(stream, MAX_FILE_BYTES, length):
            yield member, stream if kind == "tgz" else None


def _keep(found: Listing, name: str, member: Member, stream: BinaryIO) -> int:
    """Keep a text of a compressed shard; how many bytes."""
    if name in found.images[-1:] or member.size > 64 * _MAX_TEXT:
        return 0
    stream.seek(member.offset)
    found.texts[name] = stream.read(member.size)
    return member.size
