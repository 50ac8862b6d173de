"""A name -> the networks that pictures are measured with, as they come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from t2i_cli.checkpoint.weights import load_tensors
from t2i_cli.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from t2i_cli.models.lite0 import Lite0

__all__ = ["evaluation_file", "load_lite0"]


def evaluation_file(name: str, remedy: str) -> Path:
    """The file of a network that comes with the package.

    Args:
        name: of the file in weights/evaluation, such as "lite0.safetensors".
        remedy: what to do where it is missing.

    Raises:
        WeightsError: this installation has none.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "weights", package.parent / "weights"):
        path = folder / "evaluation" / name
        if path.is_file():
            return path
    raise WeightsError(f"this installation has no weights/evaluation/{name}", remedy)


def load_lite0(
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    size: int = 128,
    path: Path | None = None,
) -> Lite0:
    """EfficientNet-Lite0 with ImageNet's weights, frozen.

    Args:
        device: where it computes.
        dtype: in which it computes; None is float32.
        size: px, the side to which pictures are resized.
        path: another file than the one that comes with the package.

    Raises:
        WeightsError: the file is missing, cut or changed, or holds another network.
    """
    import torch

    from t2i_cli.models.lite0 import Lite0

    path = path or evaluation_file("lite0.safetensors", "make it: python examples/lite0/convert.py")
    tensors, _ = load_tensors(path)
    with torch.device("meta"):
        network = Lite0(size)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in tensors.items()} != shapes:
        raise WeightsError(f"{path}: not an EfficientNet-Lite0 of t2i", "give another file")
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(requires_grad=False)
    return network.to(device, dtype or torch.float32, memory_format=torch.channels_last)  # pyright: ignore
