"""Texts and noise -> images, computed by ONNX Runtime on the CPU or by torch on any device.

`open_runtime` picks one. On the CPU no torch is imported: the graph of a model's config comes from the
package or the cache (or is exported once), gets the model's weights, is optimised for this machine, and is
kept in the cache, so the next start only maps it into memory. What a cached graph was made from is checked
by its path, size, time and inode; when any of them changes the weights are read and verified again.

Every runtime keeps one promise: the images of a row depend on that row alone, to the last bit, whatever the batch. ONNX
Runtime is put to that test when a graph is made, and draws one by one where it fails it; torch draws in a
fixed batch shape.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_cli import libraries
from t2i_cli.config import ModelConfig
from t2i_cli.errors import T2IError, UsageError, WeightsError
from t2i_cli.folders import cache_folder
from t2i_cli.leftovers import sweep
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.words import Words

if TYPE_CHECKING:
    import torch

    from t2i_cli.checkpoint import LoadedModel

__all__ = ["MAX_BATCH", "OnnxRuntime", "Runtime", "Text", "TorchRuntime", "open_runtime"]

MAX_BATCH = 16  # pictures drawn at once
RUNTIME_VERSION = "4"  # raise it when a network's forward pass, `export` or this file changes: graphs are made anew
_WORDS = 16  # tokens; texts are padded to a multiple of it before the generator
_TEXTS = 1024  # encoded texts that are remembered


@dataclass(frozen=True)
class Text:
    """What the networks make of one prompt."""

    text_embeds: np.ndarray  # float32 (t, d)
    text_features: np.ndarray  # float32 (d,), unit norm
    style: np.ndarray  # float32 (s,)
    unknown_tokens: int  # bytes and symbols that the vocabulary does not hold
    cut: bool  # whether the prompt was longer than the model reads
    prompt: str  # what was read


class Runtime(ABC):
    """A model on a device: texts and noise in, images out, all of them float32 arrays."""

    name = ""  # goes into metadata: onnxruntime-cpu, torch-cuda, ...
    batch = 1  # rows that are best drawn at once
    stage = ""  # of training that the weights come from, where their file says so
    opaque = False  # whether all pictures that it was trained on were opaque

    def __init__(
        self, config: ModelConfig, tokenizer: Tokenizer, words: Words, title: str, weights_hash: str
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.words = words  # that `sample.Model` reads prompts with, before they are encoded here
        self.title = title
        self.hash = weights_hash
        self._texts: OrderedDict[str, Text] = OrderedDict()

    def encode(self, prompt: str) -> Text:
        """What the text encoder makes of a prompt."""
        return self.encode_many([prompt])[prompt]

    def encode_many(self, prompts: Sequence[str]) -> dict[str, Text]:
        """What the text encoder makes of each prompt, whatever the others are; the latest are remembered."""
        found = {prompt: self._texts[prompt] for prompt in prompts if prompt in self._texts}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        limit = self.config.text.context_length
        for start in range(0, len(missing), self.batch):
            some = missing[start : start + self.batch]
            tokens, mask = self.tokenizer.batch(some, limit)
            embeds, features, style = self._encode(tokens, mask)
            for row, prompt in enumerate(some):
                real = int(mask[row].sum())
                cut = real == limit and len(self.tokenizer.encode(prompt)) + 2 > limit
                unknown = self.tokenizer.unknown(prompt)
                found[prompt] = Text(
                    embeds[row, :real].copy(), features[row], style[row], unknown, cut, prompt
                )
        for prompt in missing:
            self._texts[prompt] = found[prompt]
            if len(self._texts) > _TEXTS:
                self._texts.popitem(last=False)
        return found

    def draw(self, noise: np.ndarray, texts: Sequence[Text], styles: np.ndarray) -> np.ndarray:
        """Images of up to `batch` rows.

        Args:
            noise: float32 (b, c, h, w).
            texts: b prompts.
            styles: float32 (b, s): the texts' own, or guided.

        Returns:
            Images, float32 (b, c, h, w), nominally in [-1, 1].
        """
        longest = max(len(text.text_embeds) for text in texts)
        length = -(-longest // _WORDS) * _WORDS
        embeds = np.zeros((len(texts), length, texts[0].text_embeds.shape[1]), np.float32)
        mask = np.zeros((len(texts), length), bool)
        for row, text in enumerate(texts):
            embeds[row, : len(text.text_embeds)] = text.text_embeds
            mask[row, : len(text.text_embeds)] = True
        return self._draw(noise, embeds, mask, np.ascontiguousarray(styles, np.float32))

    @abstractmethod
    def _encode(
        self, tokens: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens int64, mask bool (b, t) -> text_embeds (b, t or less, d), text_features (b, d), style (b, s)."""

    @abstractmethod
    def _draw(
        self, noise: np.ndarray, embeds: np.ndarray, mask: np.ndarray, styles: np.ndarray
    ) -> np.ndarray:
        """Noise (b, c, h, w), text_embeds (b, t, d), mask (b, t), styles (b, s) -> images (b, c, h, w)."""

    @abstractmethod
    def image_features(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, c, h, w) -> float32 (b, d), unit norm."""


def open_runtime(model: Path, device: str = "auto", *, announce: Any = None) -> Runtime:
    """A model, ready to draw.

    Args:
        model: a weights file.
        device: auto, cpu, cuda, cuda:N or mps. ``auto`` is the CPU for tiny and small models, which draw a
            picture there before torch is imported, and a GPU for larger ones where there is one.
        announce: called with a line of text when something takes long.

    Raises:
        WeightsError: the file is missing, broken or not one of ours.
        UsageError: no such device.
    """
    if device not in ("auto", "cpu", "mps", "cuda") and not (
        device.startswith("cuda:") and device[5:].isdigit()
    ):
        raise UsageError(f"--device {device}: no such device", "use auto, cpu, cuda, cuda:N or mps")
    if device == "auto":
        device = _best_device(model)
    if device != "cpu":
        return TorchRuntime(model, device)
    try:
        return OnnxRuntime.open(model, announce or (lambda _: None))
    except T2IError as error:
        from t2i_cli.graphs import NoGraphError

        if not isinstance(error, NoGraphError):
            raise
        (announce or (lambda _: None))(
            f"sampling with torch: {error}" + (f"; {error.hint}" if error.hint else "")
        )
        return TorchRuntime(model, "cpu")


def _best_device(model: Path) -> str:
    """cpu, unless the model is large and a GPU is at hand. Does not import torch to find that there is none."""
    seen = os.path.exists("/dev/nvidiactl") or sys.platform in ("darwin", "win32")  # noqa: PTH110
    if not seen:
        return "cpu"
    from t2i_cli.checkpoint import read_info

    if read_info(model).config.size in ("tiny", "small"):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


# --- ONNX Runtime


class OnnxRuntime(Runtime):
    """Graphs of a model on the CPU, one thread.

    Args:
        about: the manifest: config, title, stage, hash, batch.
        tokenizer: a sentencepiece model.
        words: as `words.Words` reads them.
        sessions: of the graphs, by name.
        folder: where the graph of the image encoder is, where it is not among the sessions.
    """

    name = "onnxruntime-cpu"

    def __init__(
        self,
        about: dict[str, Any],
        tokenizer: bytes,
        words: bytes,
        sessions: dict[str, Any],
        folder: Path | None = None,
    ) -> None:
        super().__init__(
            ModelConfig.from_dict(about["config"]),
            Tokenizer(tokenizer),
            Words.from_bytes(words),
            about["title"],
            about["hash"],
        )
        self.batch = int(about["batch"])
        self.stage = str(about.get("stage", ""))
        self.opaque = about.get("opaque") == "1"
        self._folder, self._sessions = folder, sessions

    @classmethod
    def kept(cls, folder: Path, about: dict[str, Any]) -> OnnxRuntime:
        """What the cache keeps in a folder: graphs with their weights, the tokenizer and the words."""
        names = ("text_encoder", "generator")
        return cls(
            about,
            (folder / "tokenizer.model").read_bytes(),
            (folder / "words.txt").read_bytes(),
            {name: _session(folder / f"{name}.onnx") for name in names},
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
        from t2i_cli.graphs import NoCacheError, in_memory, make_ready

        def batch_of(making: Path, about: dict[str, Any]) -> int:
            return MAX_BATCH if _rows_are_independent(cls.kept(making, about)) else 1

        try:
            return cls.kept(folder, make_ready(model, folder, batch_of, announce))
        except NoCacheError as error:
            ready = in_memory(model)
            announce(f"{error}, so each start takes longer; {error.hint}")
            return cls(ready.about, ready.tokenizer, ready.words, ready.sessions)

    def _encode(
        self, tokens: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count, length = len(tokens), -(-int(mask.sum(1).max()) // _WORDS) * _WORDS
        if (
            count == 1
        ):  # one row takes a matrix-vector kernel that rounds otherwise than the matrix one: make it two
            tokens, mask = tokens.repeat(2, 0), mask.repeat(2, 0)
        feed = {"tokens": tokens[:, :length], "mask": mask[:, :length]}
        embeds, features, style = self._sessions["text_encoder"].run(None, feed)
        return embeds[:count], features[:count], style[:count]

    def _draw(
        self, noise: np.ndarray, embeds: np.ndarray, mask: np.ndarray, styles: np.ndarray
    ) -> np.ndarray:
        feed = {"noise": noise, "text_embeds": embeds, "mask": mask, "style": styles}
        return self._sessions["generator"].run(None, feed)[0]

    def image_features(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, c, h, w) -> (b, d), unit norm; one by one, so that a rank never hangs on the batch."""
        if "image_encoder" not in self._sessions and self._folder is not None:
            self._sessions["image_encoder"] = _session(self._folder / "image_encoder.onnx")
        session = self._sessions["image_encoder"]
        return np.concatenate(
            [session.run(None, {"images": images[row : row + 1]})[0] for row in range(len(images))]
        )


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
    config = runtime.config
    stream = np.random.RandomState(0)
    side = config.resolution
    noise = stream.standard_normal((MAX_BATCH, config.image_channels, side, side)).astype(
        np.float32
    )
    prompts = [
        " ".join(["cat", "red", "house"][: 1 + row % 3] * (1 + 4 * (row % 4))) + str(row)
        for row in range(MAX_BATCH)
    ]
    runtime.batch = 1
    texts = [runtime.encode(prompt) for prompt in prompts]
    tokens, mask = runtime.tokenizer.batch(prompts, config.text.context_length)
    for rows in (slice(0, 3), slice(0, MAX_BATCH), slice(5, 6)):
        embeds, features, style = runtime._encode(tokens[rows], mask[rows])
        for row, text in enumerate(texts[rows]):
            pairs = (
                (embeds[row, : len(text.text_embeds)], text.text_embeds),
                (features[row], text.text_features),
            )
            if not all(np.array_equal(a, b) for a, b in (*pairs, (style[row], text.style))):
                return False
    styles = np.stack([text.style for text in texts])
    alone = [
        runtime.draw(noise[row : row + 1], texts[row : row + 1], styles[row : row + 1])[0]
        for row in range(MAX_BATCH)
    ]
    for first, count in ((0, 2), (1, 3), (2, 5), (0, 8), (3, 11), (0, MAX_BATCH)):
        rows = slice(first, first + count)
        together = runtime.draw(noise[rows], texts[rows], styles[rows])
        if not all(np.array_equal(image, alone[first + row]) for row, image in enumerate(together)):
            return False
    return True


# --- torch


class TorchRuntime(Runtime):
    """The networks themselves, float32, in one fixed batch shape a device.

    Args:
        model: a weights file.
        device: cpu, cuda, cuda:N or mps.

    Raises:
        WeightsError: the file is missing, broken or not one of ours.
        UsageError: this machine has no such device.
    """

    def __init__(self, model: Path, device: str) -> None:
        import torch

        from t2i_cli.checkpoint import load_model

        if device.startswith("cuda"):
            if not torch.cuda.is_available():
                raise UsageError(
                    f"--device {device}: torch finds no CUDA device here", "use --device cpu"
                )
            if ":" in device and int(device[5:]) >= torch.cuda.device_count():
                raise UsageError(
                    f"--device {device}: there are only {torch.cuda.device_count()} CUDA devices"
                )
        if device == "mps" and not torch.backends.mps.is_available():
            raise UsageError("--device mps: torch finds no Metal device here", "use --device cpu")
        self.loaded: LoadedModel = load_model(model, device)
        info = self.loaded.info
        super().__init__(
            self.loaded.config,
            Tokenizer(self.loaded.tokenizer),
            Words.from_bytes(self.loaded.words),
            info.title or model.stem,
            info.hash,
        )
        self.stage = info.metadata.get("t2i.stage", "")
        self.opaque = info.metadata.get("t2i.opaque") == "1"
        self.device = torch.device(device)
        self.name = f"torch-{self.device.type}"
        self.batch = 1 if self.device.type == "cpu" else MAX_BATCH
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True

    def _encode(
        self, tokens: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import torch

        networks = self.loaded.networks
        rows: list[tuple[np.ndarray, ...]] = []
        with torch.inference_mode():
            for row in range(len(tokens)):  # one by one: no bit hangs on the others
                text = networks.text_encoder(
                    self._tensor(tokens[row : row + 1]), self._tensor(mask[row : row + 1])
                )
                style = networks.generator.style(text.text_features)
                rows.append(
                    tuple(
                        value.float().cpu().numpy()
                        for value in (text.text_embeds, text.text_features, style)
                    )
                )
        embeds, features, style = (np.concatenate(column) for column in zip(*rows, strict=True))
        return embeds, features, style

    def _draw(
        self, noise: np.ndarray, embeds: np.ndarray, mask: np.ndarray, styles: np.ndarray
    ) -> np.ndarray:
        import torch

        count, length = len(noise), self.config.text.context_length
        rows = [
            *range(count),
            *[0] * (self.batch - count),
        ]  # a batch that is not full repeats its first row
        embeds = np.pad(embeds, ((0, 0), (0, max(0, length - embeds.shape[1])), (0, 0)))[:, :length]
        mask = np.pad(mask, ((0, 0), (0, max(0, length - mask.shape[1]))))[:, :length]
        inputs = [self._tensor(values[rows]) for values in (noise, embeds, mask, styles)]
        level = torch.ones(len(rows), device=self.device)
        with torch.inference_mode():
            images = self.loaded.networks.generator(
                inputs[0], level, inputs[1], inputs[2], inputs[3]
            )
        return images[:count].float().cpu().numpy()

    def image_features(self, images: np.ndarray) -> np.ndarray:
        """Images, float32 (b, c, h, w) -> float32 (b, d), unit norm; one by one."""
        import torch

        encoder = self.loaded.networks.image_encoder
        with torch.inference_mode():
            rows = [
                encoder(self._tensor(images[row : row + 1])).float().cpu().numpy()
                for row in range(len(images))
            ]
        return np.concatenate(rows)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
