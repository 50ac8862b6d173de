"""Real pictures -> the same pictures damaged in known ways, so that figures can be read against what the eye says.

To the eye, a blur of 1 px is soft and one of 2 px is poor; shapes warped by 4 px are wrong though every texture is
right; shuffled tiles show nothing; reconstructions should look like the originals; a picture of another caption is
perfect and beside the point. A figure that does not tell these from real pictures does not measure what they lack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_cli.evaluation.metrics import Estimate
from t2i_cli.evaluation.scores import SCORES

__all__ = ["ANOTHER", "DAMAGES", "Damage", "blur", "shuffle_tiles", "tells_apart", "warp"]

Damage = Callable[[np.ndarray, int], np.ndarray]  # pixels uint8 (n, h, w, 3 or 4), seed -> the same
ANOTHER = "another caption's"  # the right picture of another caption
_BATCH = 256  # pictures at a time
_WAVES = 5  # points of the warp's coarse grid along a side


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Pixels, uint8 (n, h, w, 3 or 4), under a Gaussian of ``sigma`` px; colour is weighted by alpha."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = (-offsets.square() / (2 * sigma**2)).exp()
    kernel /= kernel.sum()

    def each(values: Tensor, start: int) -> Tensor:
        channels, length = values.shape[1], len(kernel)
        for shape, pad in (
            ((1, length), (reach, reach, 0, 0)),
            ((length, 1), (0, 0, reach, reach)),
        ):
            weight = kernel.view(1, 1, *shape).expand(channels, 1, *shape)
            values = F.conv2d(F.pad(values, pad, mode="replicate"), weight, groups=channels)
        return values

    return _on_premultiplied(pixels, each)


def warp(pixels: np.ndarray, reach: float, seed: int = 0) -> np.ndarray:
    """Pixels, uint8 (n, h, w, 3 or 4), moved by a smooth field whose longest arrow is ``reach`` px.

    Each picture has a field of its own: normal deviates on 5 x 5 points, bicubic between.
    """

    def each(values: Tensor, start: int) -> Tensor:
        n, _, h, w = values.shape
        draw = torch.Generator().manual_seed(seed)
        coarse = torch.randn(len(pixels), 2, _WAVES, _WAVES, generator=draw)[start : start + n]
        field = F.interpolate(coarse, (h, w), mode="bicubic", align_corners=True)
        field = field * (reach / field.norm(dim=1, keepdim=True).amax((2, 3), keepdim=True))
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        across = (x + field[:, 0]) / w * 2 - 1
        down = (y + field[:, 1]) / h * 2 - 1
        return F.grid_sample(
            values, torch.stack([across, down], -1), mode="bilinear", padding_mode="border",
            align_corners=False,
        )  # fmt: skip

    return _on_premultiplied(pixels, each)


def shuffle_tiles(pixels: np.ndarray, tiles: int = 4, seed: int = 0) -> np.ndarray:
    """Pixels, uint8 (n, h, w, c), cut into ``tiles`` x ``tiles`` and put together in another order."""
    n, height, width, channels = pixels.shape
    down, across = height // tiles, width // tiles
    draw = np.random.default_rng(seed)
    found = np.array(pixels)
    whole = found[:, : down * tiles, : across * tiles]
    cut = whole.reshape(n, tiles, down, tiles, across, channels).transpose(0, 1, 3, 2, 4, 5)
    cut = cut.reshape(n, tiles**2, down, across, channels)
    order = draw.permuted(np.tile(np.arange(tiles**2), (n, 1)), axis=1)
    cut = np.take_along_axis(cut, order[:, :, None, None, None], 1)
    cut = cut.reshape(n, tiles, tiles, down, across, channels).transpose(0, 1, 3, 2, 4, 5)
    found[:, : down * tiles, : across * tiles] = cut.reshape(whole.shape)
    return found


DAMAGES: dict[str, Damage] = {
    "blurred 1 px": lambda pixels, seed: blur(pixels, 1.0),
    "blurred 2 px": lambda pixels, seed: blur(pixels, 2.0),
    "warped 4 px": lambda pixels, seed: warp(pixels, 4.0, seed),
    "tiles shuffled": lambda pixels, seed: shuffle_tiles(pixels, 4, seed),
}


def tells_apart(score: str, real: Estimate, others: Mapping[str, Estimate]) -> tuple[str, ...]:
    """Which of the damaged pictures a score finds worse than real ones, by more than both intervals.

    Args:
        score: a name of `SCORES`.
        real: of undamaged real pictures.
        others: name -> of damaged ones.
    """
    better = SCORES[score].better

    def worse(estimate: Estimate) -> bool:
        gap = estimate.value - real.value
        sure = math.hypot(*(0.0 if math.isnan(e.error) else e.error for e in (real, estimate)))
        return {"lower": gap > sure, "higher": -gap > sure, "as real": abs(gap) > sure}[better]

    return tuple(name for name, estimate in others.items() if worse(estimate))


def _on_premultiplied(pixels: np.ndarray, change: Callable[[Tensor, int], Tensor]) -> np.ndarray:
    """Apply a change to colour times alpha, and alpha: float (b, c, h, w) in [0, 1], and its first row."""
    found = np.empty_like(pixels)
    for start in range(0, len(pixels), _BATCH):
        block = torch.from_numpy(np.array(pixels[start : start + _BATCH]))
        values = block.permute(0, 3, 1, 2).float() / 255
        if values.shape[1] == 3:
            values = change(values, start)
        else:
            values = change(torch.cat([values[:, :3] * values[:, 3:], values[:, 3:]], 1), start)
            alpha = values[:, 3:]
            colour = torch.where(alpha > 0.5 / 255, values[:, :3] / alpha.clamp_min(1e-6), 0.0)
            values = torch.cat([colour, alpha], 1)
        done = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        found[start : start + _BATCH] = done.numpy()
    return found
