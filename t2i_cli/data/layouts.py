"""A path -> which of the four layouts it holds, and its files. Reads names only.

1. ``metadata``: ``metadata.jsonl``, ``.csv`` or ``.parquet`` beside the pictures its rows name;
2. ``sidecar``: ``x.png`` with ``x.txt`` or ``x.caption``, at any depth;
3. ``shards``: tar files with ``key.png`` and ``key.txt`` or ``key.json``;
4. ``folder``: ``red cat/001.jpg``, only when asked for.

The first that fits is taken. Hidden files, ``__MACOSX`` and files of no known kind are passed over.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from t2i_cli.data.own import RUN_FOLDERS, RUN_TEXTS, is_own_folder, is_run, own_pictures
from t2i_cli.errors import DataError
from t2i_cli.images import SUFFIXES

__all__ = ["CAPTION_SUFFIXES", "CaptionsFrom", "Source", "find", "is_hidden"]

CaptionsFrom = Literal["metadata", "sidecar", "shards", "folder"]

CAPTION_SUFFIXES = (".txt", ".caption")
_TARS = (".tar", ".tar.gz", ".tgz")
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_TABLES = (".jsonl", ".csv", ".parquet", ".json", ".tsv")  # may be metadata under another name
_LAYOUTS = ("metadata", "sidecar", "shards", "folder")


@dataclass(frozen=True)
class Source:
    """A data set's layout and the files that make it, all under one root."""

    path: Path  # as given
    root: Path  # folder that names are relative to
    layout: CaptionsFrom | None  # None: nothing that can be read was found
    images: tuple[str, ...]  # relative, with forward slashes, sorted
    texts: tuple[str, ...]  # caption files, metadata files or shards, likewise
    left_out: tuple[str, ...] = ()  # files of another layout that was not taken
    tables: tuple[str, ...] = ()  # files that look like metadata under another name
    links: tuple[str, ...] = ()  # links out of the folder, which are not followed
    own: tuple[str, ...] = ()  # what t2i wrote: folders end in /

    @property
    def phrase(self) -> str:
        """The layout in words, for the first line that a user reads."""
        if self.layout == "metadata":
            more = f" and {len(self.texts) - 1} more" if len(self.texts) > 1 else ""
            return f"image folder with {self.texts[0] if self.texts else 'no metadata'}{more}"
        if self.layout == "sidecar":
            return "images with a caption file each" if self.texts else "images without captions"
        if self.layout == "shards":
            return f"tar shards ({len(self.texts)})"
        return "class folders" if self.layout == "folder" else ""


def find(path: Path, captions_from: CaptionsFrom | None = None, *, drawn: bool = False) -> Source:
    """Which layout a folder, a shard or a metadata file holds.

    Args:
        path: what the user named.
        captions_from: the layout, where it is not to be found by looking.
        drawn: whether pictures that t2i drew are wanted too: to be measured, never to be trained on.

    Raises:
        DataError: nothing there, or it cannot be read.
    """
    if captions_from not in (None, *_LAYOUTS):
        raise DataError(
            f"--captions-from {captions_from}: no such layout", f"use one of: {', '.join(_LAYOUTS)}"
        )
    try:
        if path.is_dir():
            return _find_in_folder(path, captions_from, drawn)
        if path.is_file():
            return _find_in_file(path, drawn)
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read: {error.strerror}", "check who may read it"
        ) from error
    raise DataError(
        f"{path}: no such folder", "give a folder of pictures with captions, or of tar shards"
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over."""
    return name.startswith(".") or name == "__MACOSX"


def _find_in_file(path: Path, drawn: bool) -> Source:
    if path.name.lower().endswith(_TARS):
        return Source(path, path.parent, "shards", (), (path.name,))
    if path.suffix.lower() in (".jsonl", ".csv", ".parquet"):
        found = _walk(path.parent, drawn=drawn)
        return Source(
            path,
            path.parent,
            "metadata",
            found.images,
            (path.name,),
            links=found.links,
            own=found.own,
        )
    raise DataError(
        f"{path}: a single file, and neither a tar shard nor a metadata file",
        f"give its folder: {path.parent}",
    )


def _find_in_folder(path: Path, captions_from: CaptionsFrom | None, drawn: bool) -> Source:
    found = _walk(path, drawn=drawn)
    images, others, links, own = found.images, found.others, found.links, found.own
    metadata = tuple(name for name in others if PurePosixPath(name).name.lower() in _METADATA)
    tars = tuple(name for name in others if name.lower().endswith(_TARS))
    captions = tuple(name for name in others if name.lower().endswith(CAPTION_SUFFIXES))
    tables = tuple(name for name in others if name.lower().endswith(_TABLES))
    stems = {name.rpartition(".")[0] for name in images}
    paired = tuple(name for name in captions if name.rpartition(".")[0] in stems)
    if captions_from == "folder":
        return Source(path, path, "folder", images, (), links=links, own=own)
    if captions_from == "metadata" or (captions_from is None and metadata and (images or not tars)):
        return Source(path, path, "metadata", images, metadata, tars + paired, tables, links, own)
    if captions_from == "sidecar" or (captions_from is None and paired):
        return Source(path, path, "sidecar", images, captions, tars, tables, links, own)
    if captions_from == "shards" or tars:
        return Source(path, path, "shards", (), tars, images, links=links, own=own)
    if images:
        return Source(path, path, "sidecar", images, (), (), tables, links, own)
    return Source(path, path, None, (), (), links=links, own=own)


@dataclass(frozen=True)
class _Found:
    images: tuple[str, ...]
    others: tuple[str, ...]  # caption files, shards, tables
    links: tuple[str, ...]  # out of the folder, or to nowhere
    own: tuple[str, ...]  # folders and pictures that t2i wrote


def _walk(root: Path, *, drawn: bool = False) -> _Found:
    """The regular files of interest under a folder, relative and sorted; what t2i wrote is left out.

    With ``drawn`` pictures that it drew are not.
    """
    images: list[str] = []
    others: list[str] = []
    links: list[str] = []
    own: list[str] = []
    folders = [""]
    while folders:
        inside = folders.pop()
        with os.scandir(root / inside) as listed:
            entries = list(listed)
        names = {entry.name for entry in entries}
        if inside and is_own_folder(root / inside, names):
            own.append(inside)
            continue
        passed = RUN_FOLDERS | RUN_TEXTS if is_run(names) else frozenset[str]()
        for entry in entries:
            name = entry.name
            if is_hidden(name):
                continue
            relative = f"{inside}{name}"
            lowered = name.lower()
            is_image = os.path.splitext(lowered)[1] in SUFFIXES  # noqa: PTH122 (a Path each is slow)
            if name in passed:
                own.append(relative)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(f"{relative}/")
            elif not (
                is_image
                or lowered.endswith((*CAPTION_SUFFIXES, *_TARS, *_TABLES))
                or entry.is_dir()
            ):
                continue
            elif entry.is_symlink() and not _leads_inside(root, relative):
                links.append(relative)
            elif entry.is_file():  # and no pipe, which would wait for ever
                (images if is_image else others).append(relative)
    images.sort()
    if not drawn and (ours := own_pictures(root, images)):
        own += ours
        images = sorted(set(images) - set(ours))
    return _Found(tuple(images), tuple(sorted(others)), tuple(sorted(links)), tuple(sorted(own)))


def _leads_inside(root: Path, relative: str) -> bool:
    """Whether a link ends at something under the folder: a stranger's folder must not name other files."""
    try:
        return (root / relative).resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # to nowhere, or in a circle
        return False
