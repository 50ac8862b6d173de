"""Pixels and captions -> features, by an encoder that has a name.

The names: `own`, `lite0`, a folder or `hf:ID` of a transformers model, an ONNX file.

Figures under different encoders do not compare, so an `Encoder` carries its name, what it does to a
picture, and a key that changes with its weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_cli import libraries
from t2i_cli.checkpoint.evaluation import evaluation_file, load_lite0
from t2i_cli.checkpoint.weights import load_tensors
from t2i_cli.errors import DeviceError, UsageError, WeightsError
from t2i_cli.models.eval_encoder import EvalEncoder, hash_words, pictures_to_inputs

__all__ = ["Encoder", "load_encoder", "own_weights"]

_BATCH = 128  # pictures at a time
_LITE0_BATCH = 32  # of EfficientNet-Lite0; its early maps of more fall out of a CPU's cache


class Pictures(Protocol):
    """An array or a memory map, uint8 (n, h, w, 3 or 4), or whatever gives such parts of itself."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Encoder:
    """Something that turns pictures into features, and captions too where it can read."""

    name: str  # as the report names it
    note: str  # what it is and what it does to a picture, in a sentence
    key: str  # changes when its weights do
    picture_features: Callable[[Tensor], Tensor]  # pixels uint8 (b, h, w, 3 or 4) -> (b, d)
    to_shared: Callable[[Tensor], Tensor] | None = None  # (b, d) -> the captions' space (b, e)
    text_features: Callable[[Sequence[str]], Tensor] | None = None  # captions -> (b, e)

    @torch.no_grad()
    def features(
        self, pictures: Pictures, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Features, float32 (n, d), of n pictures."""
        found: list[Tensor] = []
        for start in range(0, len(pictures), _BATCH):
            block = torch.tensor(pictures[start : start + _BATCH])
            found.append(self.picture_features(block).float().cpu())
            if progress:
                progress(min(start + _BATCH, len(pictures)), len(pictures))
        return torch.cat(found) if found else torch.zeros(0, 1)


def own_weights() -> Path:
    """The file of the evaluation encoder that comes with the package.

    Raises:
        WeightsError: this installation has none.
    """
    return evaluation_file(
        "encoder.safetensors",
        "make one: python -m benchmarks.train_eval_encoder DATA, or give --features",
    )


def load_encoder(name: str = "own", device: str = "cpu") -> Encoder:
    """An encoder by its name.

    Args:
        name: `own`; `lite0`; a folder of a transformers image model; `hf:ID`, which may be downloaded; or an
            ONNX file that takes pictures (n, 3, h, w) in [-1, 1] and gives features (n, d).
        device: where it computes.

    Raises:
        WeightsError: its weights are missing or not valid.
        UsageError: there is no such encoder.
    """
    if name == "own":
        return _own(own_weights(), device)
    if name == "lite0":
        return _lite0(device)
    if name.startswith("hf:"):
        return _transformers(name.removeprefix("hf:"), device, local=False)
    path = Path(name)
    if path.is_dir():
        return _transformers(name, device, local=True)
    if path.suffix == ".onnx" and path.is_file():
        return _onnx(path)
    if path.suffix == ".safetensors" and path.is_file():
        return _own(path, device)
    raise UsageError(
        f"--features {name}: no such encoder",
        "use own, lite0, a folder of a transformers model, hf:ID, or an .onnx file",
    )


def _own(path: Path, device: str) -> Encoder:
    tensors, _ = load_tensors(path)
    network = EvalEncoder()
    expected = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in expected.items()}:
        raise WeightsError(f"{path}: not an evaluation encoder", "give another file, or own")
    network.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    network = network.to(device=device, memory_format=torch.channels_last).eval()  # pyright: ignore
    network.requires_grad_(requires_grad=False)

    def pictures(pixels: Tensor) -> Tensor:
        return network.features(pictures_to_inputs(pixels.to(device)))

    def shared(features: Tensor) -> Tensor:
        return network.image_features(features.to(device)).cpu()

    def texts(captions: Sequence[str]) -> Tensor:
        return network.text_features(hash_words(captions).to(device)).cpu()

    return Encoder(
        "own" if path == own_weights() else path.name,
        "the evaluation encoder of t2i, a small residual network that no training loss sees; "
        "pictures at 64 px, on white, alpha beside",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        pictures,
        shared,
        texts,
    )


def _lite0(device: str) -> Encoder:
    network = load_lite0(device)

    def pictures(pixels: Tensor) -> Tensor:
        images = _on_white(pixels.to(device)) * 2 - 1
        return torch.cat([network.features(part) for part in images.split(_LITE0_BATCH)])

    path = evaluation_file("lite0.safetensors", "install t2i-cli again")
    return Encoder(
        "lite0",
        "EfficientNet-Lite0 trained on ImageNet, which a perceptual loss may look through too; "
        f"pictures at {network.size} px (bilinear) on white",
        hashlib.sha256(path.read_bytes() + bytes(str(network.size), "ascii")).hexdigest(),
        pictures,
    )


def _onnx(path: Path) -> Encoder:
    onnxruntime = libraries.onnxruntime()
    data = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        side = entry.shape[2] if isinstance(entry.shape[2], int) else 299
    except Exception as error:
        raise WeightsError(f"{path}: not a usable ONNX file: {error}") from error

    def pictures(pixels: Tensor) -> Tensor:
        values = _resized(_on_white(pixels), side, side, "bilinear") * 2 - 1
        found = session.run(None, {entry.name: values.numpy()})[0]
        return torch.from_numpy(found).flatten(1)

    return Encoder(
        path.name,
        f"the network in {path.name}; pictures at {side} px (bilinear, antialiased) on white, "
        "-1 to 1",
        hashlib.sha256(data).hexdigest(),
        pictures,
    )


def _transformers(name: str, device: str, *, local: bool) -> Encoder:
    transformers = libraries.transformers(f"--features {name}")
    transformers.utils.logging.disable_progress_bar()
    try:
        where: dict[str, Any] = {"local_files_only": local}
        model: Any = transformers.AutoModel.from_pretrained(name, use_safetensors=True, **where)
        file = transformers.utils.cached_file(name, "preprocessor_config.json", **where)
        recipe = json.loads(Path(cast("str", file)).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"--features {name}: cannot be loaded: {error}") from error
    except RuntimeError as error:
        raise DeviceError(f"--features {name}: {error}") from error
    model = model.to(device).eval().requires_grad_(requires_grad=False)
    prepare, told = _recipe(recipe)
    reads = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")

    def pictures(pixels: Tensor) -> Tensor:
        values = prepare(_on_white(pixels)).to(device)
        if reads:
            return _pooled(model.get_image_features(pixel_values=values))
        return _pooled(model(pixel_values=values))

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, **where) if reads else None

    @torch.no_grad()
    def texts(captions: Sequence[str]) -> Tensor:
        found: list[Tensor] = []
        for start in range(0, len(captions), _BATCH):
            block = list(captions[start : start + _BATCH])
            tokens = tokenizer(block, padding=True, truncation=True, return_tensors="pt")
            tokens = {k: v.to(device) for k, v in tokens.items()}
            found.append(_pooled(model.get_text_features(**tokens)).float().cpu())
        return torch.cat(found)

    digest = hashlib.sha256(f"{model.config}\n{recipe}".encode())
    for value in model.state_dict().values():
        digest.update(value.detach().float().cpu().contiguous().numpy().data)
    note = f"{type(model).__name__} of {name}; {told}"
    if not reads:
        return Encoder(name, note, digest.hexdigest(), pictures)
    return Encoder(name, note, digest.hexdigest(), pictures, _same, texts)


def _same(features: Tensor) -> Tensor:
    return features


def _pooled(output: Any) -> Tensor:
    """One row a picture out of whatever a transformers model answers."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    return (output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)


def _recipe(recipe: dict[str, Any]) -> tuple[Callable[[Tensor], Tensor], str]:
    """The preparation that a `preprocessor_config.json` describes, for square pictures in [0, 1]."""
    size = recipe.get("size", 224)
    if isinstance(size, dict):
        size = cast("dict[str, int]", size)
        size = size.get("shortest_edge") or size.get("height") or 224
    crop = recipe.get("crop_size", size) if recipe.get("do_center_crop") else size
    if isinstance(crop, dict):
        crop = cast("dict[str, int]", crop).get("height", size)
    mode = "bilinear" if recipe.get("resample") == 2 else "bicubic"
    mean = torch.tensor(recipe.get("image_mean", [0.5] * 3)).view(3, 1, 1)
    std = torch.tensor(recipe.get("image_std", [0.5] * 3)).view(3, 1, 1)

    def prepare(values: Tensor) -> Tensor:
        values = _resized(values, int(size), int(size), mode).clamp(0, 1)
        edge = (int(size) - int(crop)) // 2
        values = values[..., edge : edge + int(crop), edge : edge + int(crop)]
        return (values - mean) / std

    return prepare, f"pictures at {size} px ({mode}), centre {crop} px, on white, normalised"


def _on_white(pixels: Tensor) -> Tensor:
    """Pixels, uint8 (b, h, w, 3 or 4) -> colour in [0, 1], float32 (b, 3, h, w), laid on white."""
    values = pixels.permute(0, 3, 1, 2).float() / 255
    if values.shape[1] == 4:
        return values[:, :3] * values[:, 3:] + (1 - values[:, 3:])
    return values


def _resized(values: Tensor, height: int, width: int, mode: str) -> Tensor:
    if values.shape[-2:] == (height, width):
        return values
    return F.interpolate(values, (height, width), mode=mode, antialias=True, align_corners=False)
