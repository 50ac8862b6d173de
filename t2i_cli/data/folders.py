"""Pictures in folders -> records: with a caption file each, or with the folder's name as caption."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

from t2i_cli.data import captions as words
from t2i_cli.data.layouts import Source
from t2i_cli.data.report import Problems, Record

__all__ = ["read_class_folders", "read_sidecars"]

_MAX_BYTES = 2**20  # of a caption file
_NOTES = frozenset(
    (
        *("attribution", "authors", "changelog", "classes", "credits", "labels", "licence"),
        *("license", "licenses", "notes", "notice", "readme", "requirements"),
    )
)  # text files that speak of the folder, not of a picture


def read_sidecars(source: Source, problems: Problems) -> list[Record]:
    """A record for each picture with a caption file of its name, in the order of their names."""
    by_stem: dict[str, list[str]] = {}
    for text in source.texts:
        by_stem.setdefault(text.rpartition(".")[0], []).append(text)
    used: dict[str, list[str]] = {}
    records: list[Record] = []
    for image in source.images:
        stem = image.rpartition(".")[0]
        found: list[str] = []
        broken = False
        for text in by_stem.get(stem, []):
            used.setdefault(text, []).append(image)
            try:
                found += words.from_text(_read(source.root / text))
            except (ValueError, OSError) as error:
                if used[text] == [image]:
                    why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
                    problems.add("bad-caption-file", f"{text}: {why}")
                broken = True
        if captions := words.clean(found):
            records.append(Record(image, captions, str(source.root / image)))
        elif not broken:
            problems.add("no-caption", image, mend=_mend(source, stem, stem in by_stem))
    for text, images in used.items():
        if len(images) > 1:
            problems.add("shared-caption-file", f"{' and '.join(images[:3])} share {text}")
    for text in source.texts:
        if text not in used and PurePosixPath(text).stem.lower() not in _NOTES:
            problems.add("stray-caption-file", text)
    return records


def read_class_folders(source: Source, problems: Problems) -> list[Record]:
    """A record for each picture in a folder, whose name is the caption."""
    records: list[Record] = []
    for image in source.images:
        if captions := words.from_folder(image):
            records.append(Record(image, captions, str(source.root / image)))
        else:
            problems.add("no-caption", image, mend="move it into a folder named by its caption")
    if not source.images:
        problems.add(
            "empty",
            what="no picture was found",
            mend="put pictures into folders named by their caption",
        )
    return records


def _mend(source: Source, stem: str, is_there: bool) -> str:
    """What to do about a picture without a caption."""
    if not source.texts and source.tables:
        table = source.tables[0]
        suffix = PurePosixPath(table).suffix
        if suffix in (".jsonl", ".csv", ".parquet"):
            return f"if {table} holds the captions, name it metadata{suffix}"
        return f"if {table} holds the captions, save it as metadata.jsonl, a row an image"
    if is_there:
        return f"write a caption into {stem}.txt"
    return f"add {stem}.txt" + (", or use --captions-from folder" if "/" in stem else "")


def _read(path: Path) -> bytes:
    """The content of a caption file.

    Raises:
        ValueError: it is too large, or no file.
        OSError: it cannot be read.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):  # a pipe would wait for ever
        raise ValueError("not a regular file")
    if state.st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES >> 20} MB")
    return path.read_bytes()
