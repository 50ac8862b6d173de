"""A run's state on disk: everything that going on needs, in safetensors and JSON, never pickled.

``state/NNNNNNNN/`` holds a safetensors file for each group of tensors, ``meta.json``, and last
``manifest.json`` with the size and SHA-256 of each. A save is written beside its name, synced,
renamed, its folder synced, read back; only then the one before goes. So a kill at any step leaves
the one before or the new one, and what is unfinished is hidden and removed at the next start
(`RunLock`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from t2i_cli.checkpoint.files import (
    TEMPORARY,
    remove,
    reported,
    sync_folder,
    temporary_beside,
    write_atomic,
)
from t2i_cli.checkpoint.weights import load_tensors, save_tensors
from t2i_cli.errors import OutputError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RunState", "load_state", "save_state", "saved_step"]

T = TypeVar("T")

STATE = "state"
MANIFEST = "manifest.json"
META = "meta.json"
_MAX_JSON = 64 * 2**20  # bytes
_GROUP = re.compile(r"[a-z0-9_-]{1,64}")
_SERIAL = re.compile(r"\d{8}")


@dataclass(frozen=True)
class RunState:
    """Where a run stood."""

    step: int
    files: dict[str, dict[str, Tensor]]  # on the CPU, as they were saved
    meta: dict[str, Any]  # JSON
    path: Path  # the folder it was read from


def save_state(
    run: Path | str, step: int, files: Mapping[str, Mapping[str, Tensor]], meta: dict[str, Any]
) -> Path:
    """Save a run's state; the one before stays until the new one has been read back.

    Args:
        run: the run folder.
        step: optimizer steps done.
        files: group (``[a-z0-9_-]``, becomes a file name) -> name -> tensor, any device.
        meta: JSON: counters, random states as lists, digests.

    Returns:
        The folder of the new state.

    Raises:
        TrainingError: a tensor holds NaN or infinity; the state before is as it was.
        OutputError: it could not be written; the state before is as it was.
    """
    home = Path(run) / STATE
    for group in files:
        if not _GROUP.fullmatch(group):
            raise ValueError(f"state: {group!r} cannot be a file's name; use [a-z0-9_-]")
    with reported(home):
        home.mkdir(parents=True, exist_ok=True)
        before = _states(home)
        serial = int(before[-1].name) + 1 if before else 1
        final = home / f"{serial:08d}"
        work = temporary_beside(final)
        try:
            work.mkdir()
            for group, tensors in files.items():
                metadata = {
                    "t2i.group": group,
                    "t2i.channels_last": json.dumps(_channels_last(tensors)),
                }
                save_tensors(work / f"{group}.safetensors", tensors, metadata)
            write_atomic(work / META, json.dumps(meta, sort_keys=True).encode())
            names = [*(f"{group}.safetensors" for group in files), META]
            write_atomic(work / MANIFEST, _manifest(work, step, names))
            sync_folder(work)
            work.rename(final)
        except BaseException:
            remove(work)
            raise
        sync_folder(home)
        sync_folder(home.parent)
        try:
            _read_manifest(final)
        except WeightsError as error:
            _discard(final)
            raise OutputError(
                f"{final}: what was written could not be read back: {error}", "check the disk"
            ) from error
        for old in before:
            _discard(old)
    return final


def load_state(run: Path | str) -> RunState | None:
    """The newest state of a run, checked whole; None where there is none.

    Raises:
        WeightsError: a file of it is missing, cut or changed.
    """
    return _newest(Path(run) / STATE, _load)


def saved_step(run: Path | str) -> int | None:
    """The step of a run's newest state, after all its files were checked; None where there is none.

    Imports no torch and keeps no tensor.

    Raises:
        WeightsError: a file of it is missing, cut or changed.
    """
    return _newest(Path(run) / STATE, lambda folder: int(_read_manifest(folder)["step"]))


def _newest(home: Path, read: Callable[[Path], T]) -> T | None:
    """What ``read`` gives for the newest state; a trainer may put a newer one in its place meanwhile."""
    while states := _states(home):
        try:
            return read(states[-1])
        except WeightsError:
            if _states(home)[-1:] == states[-1:]:
                raise
    return None


def _load(folder: Path) -> RunState:
    manifest = _read_manifest(folder)
    files: dict[str, dict[str, Tensor]] = {}
    for name in manifest["files"]:
        if name != META:
            tensors, metadata = load_tensors(folder / name)
            for key in json.loads(metadata.get("t2i.channels_last", "[]")):
                tensors[key] = _to_channels_last(tensors[key])
            files[name.removesuffix(".safetensors")] = tensors
    meta, _ = _json(folder / META)
    if not isinstance(meta, dict):
        _refuse(folder / META, "damaged: it is not a JSON object")
    return RunState(manifest["step"], files, cast("dict[str, Any]", meta), folder)


def _channels_last(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors in that memory format: sums depend on it, so it is kept."""
    import torch

    return [
        name
        for name, value in tensors.items()
        if value.dim() == 4
        and not value.is_contiguous()
        and value.is_contiguous(memory_format=torch.channels_last)
    ]


def _to_channels_last(value: Tensor) -> Tensor:
    import torch

    return value.contiguous(memory_format=torch.channels_last)


def _states(home: Path) -> list[Path]:
    """Finished states, oldest first. Their names appear by rename alone, so each was whole once."""
    try:
        return sorted(entry for entry in home.iterdir() if _SERIAL.fullmatch(entry.name))
    except OSError:
        return []


def _discard(folder: Path) -> None:
    """Take a state away so that it is never seen half gone."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}-old{TEMPORARY}")
    with contextlib.suppress(OSError):
        folder.rename(hidden)
        remove(hidden)


def _manifest(folder: Path, step: int, names: list[str]) -> bytes:
    table: dict[str, object] = {}
    for name in names:
        size, digest = _digest(folder / name)
        table[name] = {"size": size, "sha256": digest}
    return _sealed({"format": 1, "step": step, "files": table})


def _sealed(content: dict[str, object]) -> bytes:
    """Canonical JSON that carries its own SHA-256."""
    digest = hashlib.sha256(_canonical(content)).hexdigest()
    return _canonical({**content, "sha256": digest})


def _canonical(content: dict[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a state, after every file has been compared with it."""
    path = folder / MANIFEST
    told, raw = _json(path)
    if not isinstance(told, dict):
        _refuse(path, "damaged: it is not a JSON object")
    content = cast("dict[str, Any]", told)
    content.pop("sha256", None)
    if (
        _sealed(content) != raw
        or content.get("format") != 1
        or type(content.get("step")) is not int
    ):
        _refuse(path, "damaged: it is not the manifest that was saved")
    if not _lists_files(content.get("files")):
        _refuse(path, "it lists no files, or not as a manifest does")
    for name, entry in content["files"].items():
        size, digest = _digest(folder / name)
        if size != entry["size"]:
            _refuse(folder / name, f"cut short: {size:,} of {entry['size']:,} bytes")
        if digest != entry["sha256"]:
            _refuse(folder / name, "damaged: it is not the file that was saved (SHA-256 differs)")
    return content


def _lists_files(files: object) -> bool:
    if not isinstance(files, dict) or META not in files:
        return False
    return all(
        (name == META or _GROUP.fullmatch(name.removesuffix(".safetensors")) is not None)
        and isinstance(entry, dict)
        and set(cast("dict[str, object]", entry)) == {"size", "sha256"}
        for name, entry in cast("dict[str, object]", files).items()
    )


def _digest(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror or error}")


def _json(path: Path) -> tuple[object, bytes]:
    """A JSON file, parsed and as it stands."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_JSON + 1)
        if len(raw) > _MAX_JSON:
            _refuse(path, f"more than {_MAX_JSON:,} bytes")
        return json.loads(raw), raw
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror or error}")
    except (ValueError, RecursionError):
        _refuse(path, "damaged: it is not valid JSON")


def _refuse(path: Path, why: str) -> NoReturn:
    raise WeightsError(
        f"{path}: {why}",
        f"remove {path.parent} to go on from an earlier state, or start again with -f",
    )
