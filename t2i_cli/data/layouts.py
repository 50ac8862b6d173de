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


def find(path: Path, captions_from: CaptionsFrom | None = None) -> Source:
    """Which layout a folder, a shard or a metadata file holds.

    Args:
        path: what the user named.
        captions_from: the layout, where it is not to be found by looking.

    Raises:
        DataError: nothing there, or it cannot be read.
    """
    if captions_from not in (None, *_LAYOUTS):
        raise DataError(
            f"--captions-from {captions_from}: no such layout", f"use one of: {', '.join(_LAYOUTS)}"
        )
    try:
        if path.is_dir():
            return _find_in_folder(path, captions_from)
        if path.is_file():
            return _find_in_file(path)
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


def _find_in_file(path: Path) -> Source:
    if path.name.lower().endswith(_TARS):
        return Source(path, path.parent, "shards", (), (path.name,))
    if path.suffix.lower() in (".jsonl", ".csv", ".parquet"):
        images, _ = _walk(path.parent)
        return Source(path, path.parent, "metadata", images, (path.name,))
    raise DataError(
        f"{path}: a single file, and neither a tar shard nor a metadata file",
        f"give its folder: {path.parent}",
    )


def _find_in_folder(path: Path, captions_from: CaptionsFrom | None) -> Source:
    images, others = _walk(path)
    metadata = tuple(name for name in others if PurePosixPath(name).name.lower() in _METADATA)
    tars = tuple(name for name in others if name.lower().endswith(_TARS))
    captions = tuple(name for name in others if name.lower().endswith(CAPTION_SUFFIXES))
    tables = tuple(name for name in others if name.lower().endswith(_TABLES))
    stems = {name.rpartition(".")[0] for name in images}
    paired = tuple(name for name in captions if name.rpartition(".")[0] in stems)
    if captions_from == "folder":
        return Source(path, path, "folder", images, ())
    if captions_from == "metadata" or (captions_from is None and metadata and (images or not tars)):
        return Source(path, path, "metadata", images, metadata, tars + paired, tables)
    if captions_from == "sidecar" or (captions_from is None and paired):
        return Source(path, path, "sidecar", images, captions, tars, tables)
    if captions_from == "shards" or tars:
        return Source(path, path, "shards", (), tars, images)
    if images:
        return Source(path, path, "sidecar", images, (), (), tables)
    return Source(path, path, None, (), ())


def _walk(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Images and other regular files of interest under a folder, relative and sorted."""
    images: list[str] = []
    others: list[str] = []
    folders = [""]
    while folders:
        inside = folders.pop()
        with os.scandir(root / inside) as entries:
            for entry in entries:
                name = entry.name
                if is_hidden(name):
                    continue
                relative = f"{inside}{name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{relative}/")
                elif not entry.is_file():  # a pipe would wait for ever
                    continue
                elif os.path.splitext(name)[1].lower() in SUFFIXES:  # noqa: PTH122 (faster)
                    images.append(relative)
                elif name.lower().endswith((*CAPTION_SUFFIXES, *_TARS, *_TABLES)):
                    others.append(relative)
    return tuple(sorted(images)), tuple(sorted(others))
