"""What a row calls a picture -> the file that it means, among those that were found; no other file is opened."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

from t2i_cli.images import EXTRA_SUFFIXES, SUFFIXES

__all__ = ["Names", "Unmatched"]


class Unmatched(Exception):  # noqa: N818 - it is told, never shown
    """Why a name means no file.

    Args:
        kind: of the fault: bad-path, missing-image or ambiguous.
        why: in words.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Names:
    """Finds files by what people call them.

    In this order: the path from the metadata file or from the data folder; the same in another
    case, or without its ending; a bare file name anywhere in the set. What is not exact counts
    only where one file alone fits.

    Args:
        images: the files, relative with forward slashes.
        root: the data folder's absolute path with forward slashes; empty for an archive.
    """

    def __init__(self, images: Iterable[str], root: str = "") -> None:
        self._images = tuple(images)
        self._root = PurePosixPath(root)
        self._exact = {unicodedata.normalize("NFC", name): name for name in self._images}

    def find(self, named: str, folder: str = "") -> str:
        r"""The file that a row means.

        Args:
            named: as the row has it.
            folder: of the metadata file, relative to the data folder.

        Raises:
            Unmatched: it leads out of the folder, names nothing, or could mean several.

        >>> names = Names(["img/A.PNG", "b.jpg", "c/b.webp"], "/data/set")
        >>> names.find("a.png"), names.find("./img\\A"), names.find("/data/set/b.jpg")
        ('img/A.PNG', 'img/A.PNG', 'b.jpg')
        """
        name = unicodedata.normalize("NFC", named.strip().replace("\\", "/"))
        if "\0" in name or not name:
            raise Unmatched("bad-path", "no path")
        if name.startswith(("/", "~")) or name[1:2] == ":":
            return self._absolute(name)
        if "://" in name:
            raise Unmatched("bad-path", "a URL")
        parts = _resolved((*PurePosixPath(folder).parts, *name.split("/")))
        if parts is None:
            raise Unmatched("bad-path", "leads out of the folder")
        own = _resolved(name.split("/")) or parts
        tries = ["/".join(parts), "/".join(own)]
        tail = self._root.parts
        for cut in range(1, len(own)):  # the folders that the data folder lies in, written out
            if own[:cut] == list(tail[-cut:]):
                tries.append("/".join(own[cut:]))
        for one in tries:
            if (found := self._exact.get(one)) is not None:
                return found
        if "%" in name:  # as a browser writes a blank
            plain = unquote(name)
            if plain != name:
                return self.find(plain, folder)
        bare = len(own) == 1
        for one in tries:
            if (found := self._unique(one, bare=bare)) is not None:
                return found
        raise Unmatched("missing-image", "not there")

    def _absolute(self, name: str) -> str:
        path = PurePosixPath(name)
        if self._root.parts and path.is_relative_to(self._root):
            parts = _resolved(path.relative_to(self._root).parts)
            if parts is not None and (found := self._exact.get("/".join(parts))) is not None:
                return found
        found = self._unique(path.name, bare=True)
        if found is None:
            raise Unmatched("bad-path", "outside the folder, and no file here is called so")
        return found

    def _unique(self, name: str, *, bare: bool) -> str | None:
        """The one file of this name in any case, or without its ending; for a bare name at any depth.

        Raises:
            Unmatched: several fit.
        """
        low = name.lower()
        for group, key in (
            (self._whole, low),
            (self._stems, low),
            (self._stems, _stem(low)),
            *(((self._bases, low), (self._base_stems, low)) if bare else ()),
        ):
            found = group.get(key, [])
            if len(found) == 1:
                return found[0]
            if found:
                raise Unmatched("ambiguous", f"{found[0]} or {found[1]}")
        if bare and _stem(low) != low:
            found = self._base_stems.get(_stem(low), [])
            if len(found) == 1:
                return found[0]
        return None

    @cached_property
    def _whole(self) -> dict[str, list[str]]:
        return self._by(lambda name: name)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return self._by(_stem)

    @cached_property
    def _bases(self) -> dict[str, list[str]]:
        return self._by(lambda name: name.rpartition("/")[2])

    @cached_property
    def _base_stems(self) -> dict[str, list[str]]:
        return self._by(lambda name: _stem(name.rpartition("/")[2]))

    def _by(self, key: Callable[[str], str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for normal, name in self._exact.items():
            found.setdefault(key(normal.lower()), []).append(name)
        return found


def _stem(name: str) -> str:
    """A lower-case name without the ending of a picture."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and (f".{suffix}" in SUFFIXES or f".{suffix}" in EXTRA_SUFFIXES) else name


def _resolved(parts: Iterable[str]) -> list[str] | None:
    """The parts of a path without ``.`` and ``..``; None where it leads out, or to nothing."""
    out: list[str] = []
    for part in parts:
        if part == "..":
            if not out:
                return None
            out.pop()
        elif part not in ("", "."):
            out.append(part)
    return out or None
