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
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from t2i_cli.checkpoint import check_reader, load_model, read_info, write_atomic
from t2i_cli.checkpoint.safetensors_file import read_data, read_header
from t2i_cli.config import ModelConfig
from t2i_cli.errors import DeviceError, T2IError, WeightsError
from t2i_cli.folders import cache_folder

__all__ = ["GRAPHS", "NoGraphError", "bundle_for", "make_ready", "ship"]

GRAPHS = ("text_encoder", "generator", "image_encoder")
GRAPH_VERSION = "1"  # raise it when a network's forward pass or `export` changes: kept skeletons are then made anew
_KEPT = 8  # models whose optimised graphs stay in the cache


class NoGraphError(T2IError):
    """A config whose graphs cannot be made here."""


def make_ready(
    model: Path,
    folder: Path,
    batch_of: Callable[[Path, dict[str, Any]], int],
    announce: Callable[[str], None],
) -> tuple[Path, dict[str, Any]]:
    """Verify the weights, put them into the config's graphs, optimise these for this machine, and keep all that.

    Args:
        model: a weights file.
        folder: where the cache keeps it.
        batch_of: folder and manifest -> how many rows may be drawn at once.
        announce: called with a line of text when something takes long.

    Returns:
        The folder (another one where the cache cannot be written) and its manifest.

    Raises:
        WeightsError: the file is missing, broken or not one of ours.
        NoGraphError: its graphs cannot be made here.
    """
    info = read_info(model)
    bundle = bundle_for(info.config, announce, before=lambda: load_model(model))
    weights, tokenizer, words = _read_weights(model)
    check_reader(info, tokenizer, words)
    kept = True
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    except OSError:
        kept = False  # a cache that cannot be written costs time, not pictures
        temporary = Path(tempfile.mkdtemp(prefix="t2i-"))
    try:
        _fill(bundle, weights, temporary, model)
        (temporary / "tokenizer.model").write_bytes(tokenizer)
        (temporary / "words.txt").write_bytes(words)
        about = {
            "config": info.config.to_dict(),
            "title": info.title or model.stem,
            "stage": info.metadata.get("t2i.stage", ""),
            "opaque": info.metadata.get("t2i.opaque", ""),
            "hash": info.hash,
            "batch": 1,
        }
        about["batch"] = batch_of(temporary, about)
        (temporary / "about.json").write_text(json.dumps(about), encoding="utf-8")
        for file in temporary.iterdir():
            _sync(file)
        if not kept:
            return temporary, about
        try:
            temporary.rename(folder)
        except (
            OSError
        ):  # a damaged one is there, or another process was faster: the same comes in its place
            aside = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
            folder.rename(aside)
            temporary.rename(folder)
            shutil.rmtree(aside, ignore_errors=True)
        _forget_old(folder.parent)
        return folder, about
    except OSError as error:
        if kept:
            raise DeviceError(
                f"the cache {folder.parent} cannot be written: {error.strerror or error}",
                "free some space, or set T2I_CACHE to a folder that can be written",
            ) from error
        raise
    finally:
        if kept:
            shutil.rmtree(temporary, ignore_errors=True)


def _fill(bundle: bytes, weights: dict[str, np.ndarray], folder: Path, model: Path) -> None:
    import onnxruntime

    with zipfile.ZipFile(io.BytesIO(bundle)) as graphs:
        for name in GRAPHS:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
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
                onnxruntime.InferenceSession(
                    graphs.read(f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:
                raise WeightsError(f"{model}: its {name} does not fit its config") from error


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

    `t2i train` calls this at its end, so that the first `t2i sample` finds them.

    Args:
        config: what to make them from.
        announce: called with a line of text when it takes long.
        before: called before the networks are built: the place to refuse a file whose tensors do not bear its config.

    Raises:
        T2IError: they cannot be made here.
    """
    key = _config_key(config)
    package = Path(__file__).parent
    cached = cache_folder() / "graphs" / f"{key}.zip"
    for path in (
        package / "weights" / "graphs" / f"{key}.zip",
        package.parent / "weights" / "graphs" / f"{key}.zip",
        cached,
    ):
        with contextlib.suppress(OSError):
            return path.read_bytes()
    if announce is not None:
        announce("making this model's graph for fast sampling, once (about 15 s)")
    before()
    try:
        from t2i_cli.export import build_graphs

        bundle = build_graphs(config)
    except (ImportError, T2IError) as error:
        raise NoGraphError(str(error)) from error
    with contextlib.suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=cached.parent, prefix=".making-")
        with os.fdopen(handle, "wb") as file:
            file.write(bundle)
        Path(temporary).replace(cached)
    return bundle


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
