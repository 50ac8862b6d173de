"""A model that draws: `open_runtime` picks what computes it, ONNX Runtime on the CPU or torch on any device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from t2i_cli.errors import T2IError, UsageError
from t2i_cli.runtime.base import MAX_BATCH, Drawn, Read, Row, Runtime, Text

__all__ = ["MAX_BATCH", "Drawn", "Read", "Row", "Runtime", "Text", "open_runtime"]


def open_runtime(
    model: Path, device: str = "auto", *, announce: Callable[[str], None] | None = None
) -> Runtime:
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
        return _torch(model, device)
    try:
        from t2i_cli.runtime.onnx_runtime import OnnxRuntime

        return OnnxRuntime.open(model, announce or (lambda _: None))
    except T2IError as error:
        from t2i_cli.runtime.graphs import NoGraphError

        if not isinstance(error, NoGraphError):
            raise
        hint = f"; {error.hint}" if error.hint else ""
        (announce or (lambda _: None))(f"sampling with torch: {error}{hint}")
        return _torch(model, "cpu")


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


def _torch(model: Path, device: str) -> Runtime:
    from t2i_cli.runtime.torch_runtime import TorchRuntime

    return TorchRuntime.open(model, device)
