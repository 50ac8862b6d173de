"""A model on the CPU, computed by ONNX Runtime in one thread; imports no torch.

The graphs of a model's config come from the package or the cache, or are exported once. They get the model's weights,
are optimised for this machine, and are kept in the cache, so the next start only maps them into memory. What a cached
graph was made from is checked by path, size, time and inode; when one changes, the weights are verified again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from t2i_cli import libraries
from t2i_cli.config import ModelConfig
from t2i_cli.errors import T2IError, WeightsError
from t2i_cli.folders import cache_folder
from t2i_cli.leftovers import sweep
from t2i_cli.references import ReferenceStore
from t2i_cli.runtime.base import MAX_BATCH, Read, Row, Runtime
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.words import Words

__all__ = ["OnnxRuntime"]

RUNTIME_VERSION = "5"  # raise it when a network's forward pass, `export` or this file changes: graphs are made anew
DRAWING = ("text", "references", "generator", "decoder")  # graphs that every picture needs
_WORDS = 16  # tokens; texts are padded to a multiple of it


class OnnxRuntime(Runtime):
    """Graphs of a model on the CPU, one thread.

    Args:
        about: the manifest: config, title, stage, hash, batch.
        tokenizer: a sentencepiece model.
        words: as `words.Words` reads them.
        references: the training pictures that it draws from.
        sessions: of the graphs, by name.
        folder: where graphs are that are not among the sessions.
    """

    name = "onnxruntime-cpu"

    def __init__(
        self,
        about: dict[str, Any],
        tokenizer: bytes,
        words: bytes,
        references: ReferenceStore,
        sessions: dict[str, Any],
        folder: Path | None = None,
    ) -> None:
        super().__init__(
            ModelConfig.from_dict(about["config"]),
            Tokenizer(tokenizer),
            Words.from_bytes(words),
            references,
            about["title"],
            about["hash"],
        )
        self.batch = int(about["batch"])
        self.stage = str(about.get("stage", ""))
        self._folder, self._sessions = folder, sessions

    @classmethod
    def kept(cls, folder: Path, about: dict[str, Any]) -> OnnxRuntime:
        """What the cache keeps in a folder: graphs with their weights, references, the tokenizer and the words."""
        arrays = {
            item.name: np.load(
                folder / f"references.{item.name}.npy", mmap_mode="r", allow_pickle=False
            )
            for item in fields(ReferenceStore)
        }
        return cls(
            about,
            (folder / "tokenizer.model").read_bytes(),
            (folder / "words.txt").read_bytes(),
            ReferenceStore.from_arrays(arrays),
            {name: _session(folder / f"{name}.onnx") for name in DRAWING},
            folder,
        )

    @classmethod
    def open(cls, model: Path, announce: Any) -> OnnxRuntime:
        """The graphs of a weights file: from the cache, or made now and kept there, or without a cache in memory.

        Raises:
            WeightsError: the file is missing, broken or not one of ours.
            NoGraphError: its graphs cannot be made here, or not without a cache.
        """
        key = _key(model)
        folder = cache_folder() / "ready" / key
        sweep(str(folder.parent), lambda name: name.startswith((".making-", ".old-")))
        try:
            about = json.loads((folder / "about.json").read_bytes())
            return cls.kept(folder, about)
        except (OSError, ValueError, KeyError, T2IError):
            pass  # not there, or not whole: make it
        except Exception as error:  # ONNX Runtime's own errors: a file of the folder is damaged
            announce(f"making the graph again: {type(error).__name__}")
        from t2i_cli.runtime.graphs import NoCacheError, in_memory, make_ready

        def batch_of(making: Path, about: dict[str, Any]) -> int:
            return MAX_BATCH if _rows_are_independent(cls.kept(making, about)) else 1

        try:
            return cls.kept(folder, make_ready(model, folder, batch_of, announce))
        except NoCacheError as error:
            ready = in_memory(model)
            announce(f"{error}, so each start takes longer; {error.hint}")
            return cls(ready.about, ready.tokenizer, ready.words, ready.references, ready.sessions)

    def _run_needs(self, name: str) -> Any:
        if name not in self._sessions and self._folder is not None:
            self._sessions[name] = _session(self._folder / f"{name}.onnx")
        return self._sessions[name]

    def _run(self, name: str, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        session = self._run_needs(name)
        asked = {
            entry.name for entry in session.get_inputs()
        }  # a model without attributes asks for none
        return session.run(None, {key: value for key, value in feed.items() if key in asked})

    def _encode(
        self, tokens: np.ndarray, mask: np.ndarray, attributes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count, length = len(tokens), -(-int(mask.sum(1).max()) // _WORDS) * _WORDS
        feed = {"tokens": tokens[:, :length], "mask": mask[:, :length], "attributes": attributes}
        features, query, condition = self._run("text", _two(feed))
        return features[:count], query[:count], condition[:count]

    def _null_condition(self, attributes: np.ndarray) -> np.ndarray:
        return self._run("null", _two({"attributes": attributes}))[0][: len(attributes)]

    def _read(self, latents: np.ndarray, attributes: np.ndarray) -> Read:
        feed = {"latents": latents, "attributes": attributes}
        return Read(*(part[: len(latents)] for part in self._run("references", _two(feed))))

    def _velocity(
        self, latents: np.ndarray, level: np.ndarray, condition: np.ndarray, read: Read
    ) -> np.ndarray:
        feed = {
            "noisy": latents, "level": level, "condition": condition,
            "fine": read.fine, "coarse": read.coarse, "mean": read.mean,
        }  # fmt: skip
        return self._run("generator", _two(feed))[0][: len(latents)]

    def _both_velocities(
        self,
        latents: np.ndarray,
        level: np.ndarray,
        conditions: tuple[np.ndarray, np.ndarray],
        reads: tuple[Read, Read],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both in one run: attending to as many copies of "no reference" is attending to one."""
        asked, nothing = reads
        fine, coarse = (
            np.concatenate(
                [cells, np.broadcast_to(none, (len(none), cells.shape[1], none.shape[2]))]
            )
            for cells, none in ((asked.fine, nothing.fine), (asked.coarse, nothing.coarse))
        )
        read = Read(fine, coarse, np.concatenate([asked.mean, nothing.mean]))
        twice = np.concatenate([latents, latents]), np.concatenate([level, level])
        found = self._velocity(*twice, np.concatenate(conditions), read)
        return found[: len(latents)], found[len(latents) :]

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents, float32 (b, c, n, n) -> images, float32 (b, 4, r, r)."""
        return self._run("decoder", {"latents": latents})[0]

    def latents(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, 4, r, r) -> latents, float32 (b, c, n, n); one by one."""
        return self._one_by_one("encoder", images)

    def image_features(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, 4, r, r) -> (b, d), unit norm; one by one, so that a rank never hangs on the batch."""
        return self._one_by_one("image_encoder", images)

    def _one_by_one(self, name: str, images: np.ndarray) -> np.ndarray:
        rows = [self._run(name, {"images": images[at : at + 1]})[0] for at in range(len(images))]
        return np.concatenate(rows)


def _two(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A feed of one row as one of two: a matrix-vector kernel rounds otherwise than the matrix one."""
    if len(next(iter(feed.values()))) != 1:
        return feed
    return {name: values.repeat(2, 0) for name, values in feed.items()}


def _session(path: Path) -> Any:
    onnxruntime = libraries.onnxruntime()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # the file is optimised
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _key(model: Path) -> str:
    """What the kept graphs of a weights file hang on: the file as it lies there, this runtime, this processor."""
    onnxruntime = libraries.onnxruntime()

    try:
        stat = model.stat()
    except OSError as error:
        raise WeightsError(f"{model}: cannot be read: {error.strerror or error}") from None
    features = getattr(getattr(np, "_core", None), "_multiarray_umath", None)
    processor = sorted(
        name for name, has in getattr(features, "__cpu_features__", {}).items() if has
    )
    identity = (
        RUNTIME_VERSION, onnxruntime.__version__, sys.platform, processor,
        os.path.realpath(model), stat.st_size, stat.st_mtime_ns, stat.st_ino,
    )  # fmt: skip
    return hashlib.sha256(repr(identity).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _rows_are_independent(runtime: OnnxRuntime) -> bool:
    """Whether a row's image is the same to the last bit alone, in any batch, and beside longer texts."""
    prompts = [
        " ".join(["cat", "red", "house"][: 1 + row % 3] * (1 + 4 * (row % 4))) + str(row)
        for row in range(MAX_BATCH)
    ]
    places = runtime.default_attributes
    runtime.batch = 1
    texts = [runtime.encode(prompt) for prompt in prompts]
    tokens, mask = runtime.tokenizer.batch(prompts, runtime.config.text.context_length)
    kinds = np.array([places] * MAX_BATCH, np.int64).reshape(MAX_BATCH, -1)
    for rows in (slice(0, 3), slice(0, MAX_BATCH), slice(5, 6)):
        found = runtime._encode(tokens[rows], mask[rows], kinds[rows])
        for row, text in enumerate(texts[rows]):
            alone = (text.text_features, text.query, text.condition)
            if not all(np.array_equal(a[row], b) for a, b in zip(found, alone, strict=True)):
                return False
    asked = [
        Row(text, row, steps=2, guidance=2.0, references=row % 2) for row, text in enumerate(texts)
    ]
    alone_images = [runtime.draw([row])[0].image for row in asked]
    runtime.batch = MAX_BATCH
    for first, count in ((0, 2), (1, 5), (0, MAX_BATCH)):
        together = runtime.draw(asked[first : first + count])
        for at, drawn in enumerate(together):
            if not np.array_equal(drawn.image, alone_images[first + at]):
                return False
    return True
