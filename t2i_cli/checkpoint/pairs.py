"""The flow's pictures that a run learns from, kept beside its state: what is missing or damaged is drawn again.

``pairs/POSITION-TEXT``: the pixels that one step drew, compressed, and a checksum of the texts that they are of. They
follow from the state, so only minutes are lost with them.
"""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from t2i_cli.checkpoint.files import remove, write_atomic
from t2i_cli.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["drop_pairs", "keep_pairs", "kept_pairs"]

PAIRS = "pairs"


def keep_pairs(run: Path, position: int, tokens: Tensor, pictures: Tensor) -> None:
    """Keep pictures, uint8 on any device; where the disk does not take them, nothing of that name is there.

    Args:
        run: the run folder.
        position: number of the step that drew them.
        tokens: of their texts.
        pictures: uint8.
    """
    path = _path(run, position, tokens)
    try:
        write_atomic(path, zlib.compress(pictures.cpu().numpy().tobytes(), 1))
    except OutputError:
        with contextlib.suppress(OSError):  # an older one would pass for these
            path.unlink(missing_ok=True)


def kept_pairs(run: Path, position: int, tokens: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """The pictures, uint8 of this shape on the CPU; None where they are not there, not whole, or of other texts."""
    import torch

    try:
        data = zlib.decompress(_path(run, position, tokens).read_bytes())
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(shape)
    except (OSError, zlib.error, RuntimeError, ValueError):
        return None


def drop_pairs(run: Path) -> None:
    """Remove all pictures that are kept."""
    remove(run / PAIRS)


def _path(run: Path, position: int, tokens: Tensor) -> Path:
    text = zlib.crc32(tokens.cpu().numpy().tobytes())
    return run / PAIRS / f"{position:08d}-{text:08x}"
