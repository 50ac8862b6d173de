"""A weights file -> a folder of graphs that ONNX Runtime maps into memory at once.

The skeleton of a config's graphs (`export.build_graphs`) is shipped with the package, kept in the cache, or
exported now. It is filled with the model's weights, verified first, and optimised for this machine. Only
graphs that this tool made are ever read: none comes from beside somebody's weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2i_cli import libraries
from t2i_cli.checkpoint import WeightsInfo, check_reader, load_model, read_info, write_atomic
from t2i_cli.checkpoint.safetensors_file import read_data, read_header
from t2i_cli.config import ModelConfig
from t2i_cli.errors import DeviceError, OutputError, T2IError, WeightsError
from t2i_cli.folders import cache_folder
from t2i_cli.leftovers import held_folder

__all__ = [
    "GRAPHS",
    "NoCacheError",
    "NoGraphError",
    "Ready",
    "bundle_for",
    "in_memory",
    "is_made",
    "make_ready",
    "ship",
]

GRAPHS = ("text_encoder", "generator", "image_encoder")
GRAPH_VERSION = "1"  # raise it when a network's forward pass or `export` changes: kept skeletons are then made anew
_KEPT = 8  # models whose optimised graphs stay in the cache


class NoGraphError(T2IError):
    """A config whose graphs cannot be made here."""


@dataclass(frozen=True)
class Ready:
    """A model that can draw: what a runtime is made of."""

    about: dict[str, Any]  # config, title, stage, hash, batch
    tokenizer: bytes
    words: bytes
    sessions: dict[str, Any]  # ONNX Runtime's, by the names in `GRAPHS`


class NoCacheError(T2IError):
    """A cache that cannot be written."""


def make_ready(
    model: Path,
    folder: Path,
    batch_of: Callable[[Path, dict[str, Any]], int],
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Verify the weights, put them into the config's graphs, optimise these for this machine, and keep all that.

    Args:
        model: a weights file.
        folder: where the cache keeps it.
        batch_of: folder and manifest -> how many rows may be drawn at once.
        announce: called with a line of text when something takes long.

    Returns:
        The manifest that is in the folder.

    Raises:
        WeightsError: the file is missing, broken or not one of ours.
        NoGraphError: its graphs cannot be made here.
        NoCacheError: the cache cannot be written; nothing is left there.
        DeviceError: the disk of the cache is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made, held = held_folder(lambda: str(folder.parent / f".making-{secrets.token_hex(8)}"))
    except OSError as error:
        raise NoCacheError(
            f"the cache {folder.parent.parent} cannot be written: {error.strerror or error}",
            "set T2I_CACHE to a folder that can be written",
        ) from error
    temporary = Path(made)
    try:
        info, weights, tokenizer, words, bundle = _parts(model, announce)
        _fill(bundle, weights, model, temporary)
        (temporary / "tokenizer.model").write_bytes(tokenizer)
        (temporary / "words.txt").write_bytes(words)
        about = _about(info, model)
        about["batch"] = batch_of(temporary, about)
        (temporary / "about.json").write_text(json.dumps(about), encoding="utf-8")
        for file in temporary.iterdir():
            _sync(file)
        try:
            temporary.rename(folder)
        except (
            OSError
        ):  # a damaged one is there, or another process was faster: the same comes in its place
            aside = folder.with_name(f".old-{secrets.token_hex(8)}")
            folder.rename(aside)
            temporary.rename(folder)
            shutil.rmtree(aside, ignore_errors=True)
        _forget_old(folder.parent)
        return about
    except OSError as error:
        raise DeviceError(
            f"the cache {folder.parent} cannot be written: {error.strerror or error}",
            "free some space, or set T2I_CACHE to a folder that can be written",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if held >= 0:
            os.close(held)


def in_memory(model: Path) -> Ready:
    """What `make_ready` makes, kept nowhere: for a machine without a cache. Pictures are drawn one by one.

    Raises:
        WeightsError: the file is missing, broken or not one of ours.
        NoGraphError: nobody has made the graph of its config yet, which takes long.
    """
    info, weights, tokenizer, words, bundle = _parts(model, None)
    return Ready(_about(info, model), tokenizer, words, _fill(bundle, weights, model))


def _parts(
    model: Path, announce: Callable[[str], None] | None
) -> tuple[WeightsInfo, dict[str, np.ndarray], bytes, bytes, bytes]:
    """A weights file, verified, its tensors, tokenizer and words, and the skeleton of its config."""
    info = read_info(model)
    bundle = bundle_for(info.config, announce, before=lambda: load_model(model))
    weights, tokenizer, words = _read_weights(model)
    check_reader(info, tokenizer, words)
    return info, weights, tokenizer, words, bundle


def _about(info: WeightsInfo, model: Path) -> dict[str, Any]:
    return {
        "config": info.config.to_dict(),
        "title": info.title or model.stem,
        "stage": info.metadata.get("t2i.stage", ""),
        "opaque": info.metadata.get("t2i.opaque", ""),
        "hash": info.hash,
        "batch": 1,
    }


def _fill(
    bundle: bytes, weights: dict[str, np.ndarray], model: Path, folder: Path | None = None
) -> dict[str, Any]:
    """Sessions of the graphs, with the weights; optimised graphs go into the folder where one is given."""
    sessions: dict[str, Any] = {}
    onnxruntime = libraries.onnxruntime()
    with zipfile.ZipFile(io.BytesIO(bundle)) as graphs:
        for name in GRAPHS:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
            if folder is not None:
                options.optimized_model_filepath = str(folder / f"{name}.onnx")
                options.add_session_config_entry(
                    "session.optimized_model_external_initializers_file_name", f"{name}.bin"
                )
                options.add_session_config_entry(
                    "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
                )
            names = json.loads(graphs.read(f"{name}.json"))
            if lacking := [key for key in names if key not in weights]:
                raise WeightsError(
                    f"{model}: its tensors are not those of its config: it lacks {lacking[0]!r}"
                )
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[key]) for key in names]
            options.add_external_initializers(names, values)
            try:
                sessions[name] = onnxruntime.InferenceSession(
                    graphs.read(f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:
                raise WeightsError(f"{model}: its {name} does not fit its config") from error
    return sessions


def _read_weights(model: Path) -> tuple[dict[str, np.ndarray], bytes, bytes]:
    """Every float tensor of a weights file as float32, the tokenizer and the words; verified, finite, without torch."""
    with model.open("rb") as file:
        header = read_header(file, model)
        data = read_data(file, header, model)
    weights: dict[str, np.ndarray] = {}
    texts = {"tokenizer": b"", "words": b""}
    for name, place in header.tensors.items():
        raw = memoryview(data)[place.start : place.end]
        if name in texts:
            texts[name] = bytes(raw)
            continue
        if place.dtype == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif place.dtype in ("F16", "F32", "F64"):
            values = np.frombuffer(
                raw, {"F16": np.float16, "F32": np.float32, "F64": np.float64}[place.dtype]
            )
            values = values.astype(np.float32)
        else:
            continue
        if not np.isfinite(values).all():
            raise WeightsError(
                f"{model}: tensor {name} holds NaN or infinity",
                "the model was not trained well: take another",
            )
        weights[name] = values.reshape(place.shape)
    return weights, texts["tokenizer"], texts["words"]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def _forget_old(folder: Path) -> None:
    """Keep the newest few models' graphs, and clear what a killed process left."""
    with contextlib.suppress(OSError):
        entries = sorted(
            (path for path in folder.iterdir() if path.is_dir()),
            key=lambda path: -path.stat().st_mtime,
        )
        for path in entries[_KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def bundle_for(
    config: ModelConfig,
    announce: Callable[[str], None] | None = None,
    before: Callable[[], object] = lambda: None,
) -> bytes:
    """The skeleton graphs of a config (`export.build_graphs`): shipped, cached, or made now.

    `t2i train` calls this before its first step, so that the first `t2i sample` finds them, however the run ends.

    Args:
        config: what to make them from.
        announce: called with a line of text when it takes long; None: they are not made then.
        before: called before the networks are built: the place to refuse a file whose tensors do not bear its config.

    Raises:
        T2IError: they cannot be made here.
    """
    for path in _places(config):
        with contextlib.suppress(OSError):
            return path.read_bytes()
    if announce is None:
        raise NoGraphError(
            "there is no cache to keep this model's graph in",
            "set T2I_CACHE to a folder that can be written",
        )
    announce("making this model's graph for fast sampling, once (about 15 s)")
    before()
    try:
        from t2i_cli.export import build_graphs

        bundle = build_graphs(config)
    except (ImportError, T2IError) as error:
        raise NoGraphError(str(error)) from error
    with contextlib.suppress(OutputError):
        write_atomic(_places(config)[-1], bundle)
    return bundle


def is_made(config: ModelConfig) -> bool:
    """Whether the skeleton graphs of a config are at hand."""
    return any(path.is_file() for path in _places(config))


def _places(config: ModelConfig) -> tuple[Path, ...]:
    """Where skeletons are kept: in the package, in the repository, last in the cache."""
    name = f"{_config_key(config)}.zip"
    package = Path(__file__).parent
    shipped = (package / "weights" / "graphs" / name, package.parent / "weights" / "graphs" / name)
    return (*shipped, cache_folder() / "graphs" / name)


def ship(model: Path | str) -> Path:
    """Write the skeleton of a model's config anew into the repository's ``weights/graphs``; returns the file."""
    from t2i_cli.export import build_graphs

    config = read_info(model).config
    path = Path(__file__).parent.parent / "weights" / "graphs" / f"{_config_key(config)}.zip"
    write_atomic(path, build_graphs(config))
    return path


def _config_key(config: ModelConfig) -> str:
    described = json.dumps(config.to_dict(), sort_keys=True)
    return hashlib.sha256(f"{GRAPH_VERSION} {described}".encode()).hexdigest()[:32]
