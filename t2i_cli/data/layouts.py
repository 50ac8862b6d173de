"""A path -> which of the four layouts it holds, its files, and a record for each picture that has a caption.

Reads names, caption files and shard headers, never a pixel. What does not fit is noted as a problem with its mend.

1. ``metadata``: ``metadata.jsonl``, ``.csv`` or ``.parquet`` beside the pictures that its rows name;
2. ``sidecar``: ``x.png`` with ``x.txt`` or ``x.caption``, at any depth;
3. ``shards``: tar files with ``key.png`` and ``key.txt`` or ``key.json``;
4. ``folder``: ``red cat/001.jpg``, only when asked for.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import stat
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

from t2i_cli.data import captions as words
from t2i_cli.data.report import Problems, Record
from t2i_cli.data.tar import Ending, Skipped, members
from t2i_cli.errors import DataError, visible
from t2i_cli.images import MAX_FILE_BYTES, SUFFIXES

__all__ = ["CaptionsFrom", "Source", "find", "open_stream", "read_records"]

CaptionsFrom = Literal["metadata", "sidecar", "shards", "folder"]

_TARS = (".tar", ".tar.gz", ".tgz")
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SIDECARS = (".txt", ".caption")
_MAX_TEXT = 2**20  # bytes, of one caption or JSON sidecar


@dataclass(frozen=True)
class Source:
    """A data set's layout and the files that make it, all under one root."""

    path: Path  # as given
    root: Path  # folder that names are relative to
    layout: CaptionsFrom | None  # None: nothing that can be read was found
    images: tuple[str, ...]  # relative, with forward slashes, sorted
    texts: tuple[str, ...]  # caption files, metadata files or shards, likewise
    left_out: tuple[str, ...] = ()  # files of another layout that was not taken

    @property
    def phrase(self) -> str:
        """The layout in words, for the first line that a user reads."""
        if self.layout == "metadata":
            return f"image folder with {self.texts[0]}" + (f" and {len(self.texts) - 1} more" if len(self.texts) > 1 else "")
        if self.layout == "sidecar":
            kinds = sorted({PurePosixPath(text).suffix for text in self.texts})
            return "images with a caption file each" + (f" ({', '.join(kinds)})" if kinds else "")
        if self.layout == "shards":
            return f"tar shards ({len(self.texts)})"
        return "class folders" if self.layout == "folder" else ""


def find(path: Path, captions_from: CaptionsFrom | None = None) -> Source:
    """Which layout a folder, a shard or a metadata file holds.

    Raises:
        DataError: nothing there, or it cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder", "give a folder of pictures with captions, or of tar shards")
    if path.is_file():
        if path.name.lower().endswith(_TARS):
            return Source(path, path.parent, "shards", (), (path.name,))
        if path.suffix.lower() in (".jsonl", ".csv", ".parquet"):
            images, _ = _walk(path.parent)
            return Source(path, path.parent, "metadata", images, (path.name,))
        raise DataError(f"{path}: a single file, and neither a tar shard nor a metadata file", f"give its folder: {path.parent}")
    images, others = _walk(path)
    metadata = tuple(name for name in others if PurePosixPath(name).name.lower() in _METADATA)
    tars = tuple(name for name in others if name.lower().endswith(_TARS))
    if captions_from == "folder":
        return Source(path, path, "folder", images, ())
    if captions_from == "metadata" or (captions_from is None and metadata and images):
        return Source(path, path, "metadata", images, metadata, tars)
    stems = {name.rpartition(".")[0] for name in images}
    sidecars = tuple(name for name in others if name.lower().endswith(_SIDECARS) and name.rpartition(".")[0] in stems)
    if captions_from == "sidecar" or (captions_from is None and sidecars):
        texts = tuple(name for name in others if name.lower().endswith(_SIDECARS))
        return Source(path, path, "sidecar", images, texts, tars)
    if captions_from == "shards" or tars:
        return Source(path, path, "shards", (), tars, images)
    if metadata:
        return Source(path, path, "metadata", images, metadata)
    if images:
        return Source(path, path, "sidecar", images, ())
    return Source(path, path, None, (), ())


def read_records(source: Source, problems: Problems, caption_key: str | None = None) -> list[Record]:
    """The pictures that have a caption, in the order of their names; what does not fit goes to ``problems``."""
    if source.layout == "metadata":
        return _read_metadata(source, problems, caption_key)
    if source.layout == "sidecar":
        return _read_sidecars(source, problems)
    if source.layout == "shards":
        return _read_shards(source, problems, caption_key)
    if source.layout == "folder":
        return _read_folders(source, problems)
    problems.add("empty", "", "no picture was found", "PNG, JPEG, WebP, BMP, GIF, AVIF, or tar shards of them", fatal=True)
    return []


def open_stream(path: str | Path) -> BinaryIO:
    """A file for reading, decompressed on the way where its name says so; seekable forwards at no great cost."""
    if str(path).lower().endswith((".gz", ".tgz")):
        return cast("BinaryIO", gzip.open(path, "rb"))
    return Path(path).open("rb", buffering=1 << 18)


def _walk(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Images and other files under a folder, relative and sorted; hidden ones, links to folders and what is no file left out."""
    images: list[str] = []
    others: list[str] = []

    def failed(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}", "check who may read it") from error

    for folder, subfolders, files in os.walk(root, onerror=failed):
        subfolders[:] = [name for name in subfolders if not _hidden(name)]
        inside = Path(folder).relative_to(root).as_posix()
        for name in files:
            if _hidden(name):
                continue
            relative = name if inside == "." else f"{inside}/{name}"
            suffix = name[name.rfind(".") :].lower() if "." in name else ""
            if suffix in SUFFIXES or suffix in _SIDECARS or name.lower() in _METADATA or name.lower().endswith(_TARS):
                (images if suffix in SUFFIXES else others).append(relative)
    return tuple(sorted(images)), tuple(sorted(others))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _read_small(root: Path, name: str, limit: int = _MAX_TEXT) -> bytes:
    """The content of a small regular file.

    Raises:
        ValueError: it is larger, or no file.
        OSError: it cannot be read.
    """
    path = root / name
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("not a regular file")
    if state.st_size > limit:
        raise ValueError(f"larger than {limit >> 20} MB")
    return path.read_bytes()


def _read_sidecars(source: Source, problems: Problems) -> list[Record]:
    by_stem: dict[str, list[str]] = {}
    for text in source.texts:
        by_stem.setdefault(text.rpartition(".")[0], []).append(text)
    sharing: dict[str, list[str]] = {}
    records: list[Record] = []
    for image in source.images:
        stem = image.rpartition(".")[0]
        found: tuple[str, ...] = ()
        for text in by_stem.get(stem, []):
            try:
                found += words.from_text(_read_small(source.root, text))
            except (ValueError, OSError) as error:
                why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                problems.add("bad-caption-file", f"{text}: {why}", "caption file cannot be read|caption files cannot be read",
                             "save it as UTF-8 text")  # fmt: skip
            else:
                sharing.setdefault(text, []).append(image)
        found = words.clean(found)
        if found:
            records.append(Record(image, found, str(source.root / image)))
        else:
            empty = " or fill it" if stem in by_stem else ""
            subfolder = "/" in image and stem not in by_stem
            mend = f"add {stem}.txt{empty}" + (", or use --captions-from folder" if subfolder else "")
            problems.add("no-caption", image, "image has no caption|images have no caption", mend)
    for text, images in sharing.items():
        if len(images) > 1:
            pair = f"{' and '.join(images[:3])} share {text}"
            problems.add("shared-caption-file", pair, "caption file belongs to several images|caption files belong to several images",
                         "rename one of the images and give it its own", severity="warning")  # fmt: skip
    for stem, texts in by_stem.items():
        if not any(text in sharing for text in texts) and stem not in {image.rpartition(".")[0] for image in ()}:
            for text in texts:
                if text not in sharing and not _is_note(text):
                    problems.add("stray-caption-file", text, "caption file has no image|caption files have no image",
                                 "remove it, or add the image of the same name", severity="warning")  # fmt: skip
    return records


def _is_note(text: str) -> bool:
    """A text file that explains the folder rather than a picture."""
    stem = PurePosixPath(text).stem.lower()
    return stem in {"readme", "license", "licence", "licenses", "credits", "notes", "classes", "labels", "requirements"}


def _read_folders(source: Source, problems: Problems) -> list[Record]:
    records: list[Record] = []
    for image in source.images:
        if found := words.from_folder(image):
            records.append(Record(image, found, str(source.root / image)))
        else:
            problems.add("no-caption", image, "image is in no class folder|images are in no class folder",
                         "move it into a folder whose name is its caption")  # fmt: skip
    if not source.images:
        problems.add("empty", "", "no picture was found", "put pictures into folders named by their caption", fatal=True)
    return records


# --- metadata files ---------------------------------------------------------------------------------------------------


def _read_metadata(source: Source, problems: Problems, caption_key: str | None) -> list[Record]:
    if not source.texts:
        problems.add("empty", "", "no metadata.jsonl or metadata.csv was found", "add one with file_name and text", fatal=True)
        return []
    images = set(source.images)
    composed = {unicodedata.normalize("NFC", name): name for name in source.images}
    found: dict[str, Record] = {}
    keys: dict[str, None] = {}
    rows = 0
    missing: list[tuple[str, str]] = []
    for text in source.texts:
        folder = text.rpartition("/")[0]
        for where, row in _rows(source.root, text, problems):
            rows += 1
            for key in row:
                if len(keys) < 64:
                    keys[key] = None
            named = row.get("file_name")
            if not isinstance(named, str) or not named.strip():
                problems.add("bad-row", where, "row has no file_name|rows have no file_name", "every row names its image in file_name")
                continue
            name = _inside(named, folder)
            if name is None:
                problems.add("bad-path", f"{where}: {named}", "row names a path outside the folder|rows name a path outside the folder",
                             "use paths relative to the metadata file, without .. and without https://")  # fmt: skip
                continue
            image = name if name in images else composed.get(unicodedata.normalize("NFC", name))
            if image is None:
                missing.append((f"{where}: {name}", name))
                continue
            texts = words.from_row(row, caption_key)
            if not texts:
                problems.add("no-caption", image, "image has no caption|images have no caption", f"add a text to its row in {text}")
                continue
            if image in found:  # several rows of one image are alternatives
                before = found[image]
                found[image] = Record(image, words.clean(before.captions + texts), before.file, split=before.split, meta=before.meta)
            else:
                found[image] = Record(
                    image,
                    texts,
                    str(source.root / image),
                    split=words.split_of(row),
                    meta=words.meta_of(row, ("file_name", caption_key or "")),
                )
    for where, _ in missing:
        problems.add("missing-image", where, "row names an image that is not there|rows name images that are not there",
                     "add the image, or remove the row")  # fmt: skip
    if rows and len(missing) == rows:
        here = f"the folder holds {source.images[0]}" if source.images else "the folder holds no image"
        problems.add("no-match", "", f"no row of {source.texts[0]} matches an image: it names {missing[0][1]}, {here}",
                     "file_name is relative to the metadata file", fatal=True)  # fmt: skip
    elif not rows:
        problems.add("empty", "", f"{source.texts[0]} holds no row that can be read", "a row an image: file_name and text", fatal=True)
    elif not found:
        _wrong_key(problems, keys, caption_key)
    listed = {record for record in found}
    for image in source.images:
        if image not in listed and found:
            problems.add("unlisted", image, "image is in no row and left out|images are in no row and left out",
                         f"add them to {source.texts[0]}", severity="warning")  # fmt: skip
    return [found[name] for name in sorted(found)]


def _wrong_key(problems: Problems, keys: Mapping[str, None], caption_key: str | None) -> None:
    """No row has a caption: say which key was looked for and which one was probably meant."""
    others = [key for key in keys if key not in ("file_name", "split")]
    if not others:
        return
    wanted = caption_key or " or ".join(words.CAPTION_KEYS)
    guess = words.nearest(caption_key, others) if caption_key else ""
    guess = guess or next((near for key in words.CAPTION_KEYS if (near := words.nearest(key, others))), "")
    if not guess:
        guess = next((key for key in others if any(part in key.lower() for part in ("capt", "text", "desc", "label", "title"))), "")
    known = ", ".join(others[:8])
    problems.add("unknown-key", "", f"no caption under {wanted}; the keys are {known}",
                 f"use --caption-key {guess or others[0]}", fatal=True)  # fmt: skip


def _inside(named: str, folder: str) -> str | None:
    """A row's file name -> the same relative to the root, or None where it leads out of the folder."""
    name = named.strip().replace("\\", "/")
    if "://" in name or name.startswith(("/", "~")) or "\0" in name or (len(name) > 1 and name[1] == ":"):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        return None
    return "/".join(([folder] if folder else []) + parts)


def _rows(root: Path, name: str, problems: Problems) -> Iterator[tuple[str, dict[str, object]]]:
    """The rows of a metadata file, each with where it stands (``metadata.jsonl:3``)."""
    try:
        if name.lower().endswith(".jsonl"):
            yield from _json_rows(root / name, name, problems)
        elif name.lower().endswith(".csv"):
            yield from _csv_rows(root / name, name, problems)
        else:
            yield from _parquet_rows(root / name, name)
    except (OSError, ValueError, csv.Error) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else visible(error)
        problems.add("bad-metadata", f"{name}: {why}", "metadata file cannot be read|metadata files cannot be read",
                     "save it as UTF-8", fatal=True)  # fmt: skip


def _json_rows(path: Path, name: str, problems: Problems) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = _json_object(line)
            if row is None:
                problems.add("bad-row", f"{name}:{number}", "row is not a JSON object|rows are not JSON objects",
                             'write {"file_name": "a.png", "text": "a red cat"}')  # fmt: skip
            else:
                yield f"{name}:{number}", row


def _csv_rows(path: Path, name: str, problems: Problems) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        sample = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=sample.count)
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        for row in reader:
            if None in row:
                problems.add("bad-row", f"{name}:{reader.line_num}", "row has more cells than the header|rows have more cells than the header",
                             'put captions with a comma in quotes: "a cat, sitting"')  # fmt: skip
            else:
                yield f"{name}:{reader.line_num}", {key: value for key, value in row.items() if value not in (None, "")}


def _parquet_rows(path: Path, name: str) -> Iterator[tuple[str, dict[str, object]]]:
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
    except ImportError as error:
        raise DataError(f"{name}: reading Parquet needs pyarrow", "pip install pyarrow, or save it as metadata.jsonl") from error
    number = 0
    file: Any = parquet.ParquetFile(path)
    for batch in file.iter_batches(1024):
        for row in cast("list[dict[str, object]]", batch.to_pylist()):
            number += 1
            yield f"{name}:{number}", row


def _json_object(text: str | bytes) -> dict[str, object] | None:
    """A JSON object, or None for anything else; never raises."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


# --- tar shards -------------------------------------------------------------------------------------------------------


@dataclass
class _Sample:
    """What a shard holds under one key."""

    image: tuple[str, int, int] | None = None  # name, offset, size
    texts: tuple[str, ...] = ()
    row: dict[str, object] | None = None


def _read_shards(source: Source, problems: Problems, caption_key: str | None) -> list[Record]:
    records: list[Record] = []
    keys: dict[str, None] = {}
    pictures = 0
    for shard in source.texts:
        samples = _read_shard(source.root, shard, problems)
        for key, sample in samples.items():
            if sample.image is None:
                if sample.texts or sample.row:
                    problems.add("missing-image", f"{shard}: {key}", "caption in a shard has no image|captions in shards have no image",
                                 "write the shard again", severity="warning")  # fmt: skip
                continue
            pictures += 1
            row = sample.row or {}
            for one in row:
                if len(keys) < 64:
                    keys[one] = None
            found = words.from_row(row, caption_key)
            found = words.clean(found if caption_key else sample.texts + found)
            name, offset, size = sample.image
            if not found:
                problems.add("no-caption", f"{shard}/{name}", "image has no caption|images have no caption", f"add {key}.txt to the shard")
                continue
            records.append(
                Record(
                    f"{shard}/{name}",
                    found,
                    str(source.root / shard),
                    offset,
                    size,
                    split=words.split_of(row),
                    meta=words.meta_of(row, (caption_key or "",)),
                )
            )
    if not source.texts:
        problems.add("empty", "", "no tar shard was found", "write shards as key.png and key.txt", fatal=True)
    elif not pictures:
        problems.add("empty", "", "the shards hold no picture", "write shards as key.png and key.txt", fatal=True)
    elif not records:
        _wrong_key(problems, keys, caption_key)
    return records


def _read_shard(root: Path, shard: str, problems: Problems) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    path = root / shard
    if not path.is_file():
        problems.add("bad-member", shard, "shard is not a regular file|shards are not regular files", "write it again")
        return samples
    length = -1 if shard.lower().endswith(("gz", "tgz")) else path.stat().st_size
    try:
        with open_stream(path) as file:
            for member in members(file, MAX_FILE_BYTES, length):
                if isinstance(member, Ending):
                    if not member.whole:
                        problems.add("cut-shard", f"{shard}: {member.why}", "shard is broken or cut off|shards are broken or cut off",
                                     "copy it again; what came before was read")  # fmt: skip
                    elif not member.marked:
                        problems.add("no-end-marker", shard, "shard has no end marker and may be cut off"
                                     "|shards have no end marker and may be cut off", "copy them again", severity="warning")  # fmt: skip
                    break
                base = member.name.rpartition("/")[2]
                if _hidden(base) or "__MACOSX/" in member.name:
                    continue
                if isinstance(member, Skipped):
                    problems.add("bad-member", f"{shard}: {member.name}: {member.why}", "thing in a shard is not read"
                                 "|things in shards are not read", "only whole files of at most 256 MB are", severity="warning")  # fmt: skip
                    continue
                _take(samples, member.name, member.offset, member.size, file, shard, problems)
    except (OSError, EOFError, ValueError) as error:  # gzip's errors among them
        problems.add("cut-shard", f"{shard}: {error}", "shard is broken or cut off|shards are broken or cut off", "copy it again")
    return samples


def _take(
    samples: dict[str, _Sample], name: str, offset: int, size: int, file: BinaryIO, shard: str, problems: Problems
) -> None:
    """File one member under its key: the name up to the first dot of its last part, as webdataset has it."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    extension = extension.lower()
    suffix = "." + extension.rpartition(".")[2]
    if not stem or (suffix not in SUFFIXES and extension not in ("txt", "caption", "json")):
        return
    sample = samples.setdefault(sys.intern(folder + slash + stem), _Sample())
    if suffix in SUFFIXES:
        if sample.image is None:
            sample.image = (name, offset, size)
        return
    if size > _MAX_TEXT:
        problems.add("bad-member", f"{shard}: {name}: larger than 1 MB", "thing in a shard is not read|things in shards are not read",
                     "captions are short", severity="warning")  # fmt: skip
        return
    file.seek(offset)
    content = file.read(size)
    if extension == "json":
        sample.row = _json_object(content)
        broken = sample.row is None
    else:
        try:
            sample.texts += words.from_text(content)
            broken = False
        except ValueError:
            broken = True
    if broken:
        problems.add("bad-caption-file", f"{shard}: {name}", "caption file cannot be read|caption files cannot be read",
                     "write it as UTF-8 text or a JSON object")  # fmt: skip


