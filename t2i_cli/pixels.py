"""The one place where a value's range changes: pixels (uint8, straight alpha) <-> images (float in [-1, 1]).

Transparent pictures are *premultiplied around grey* in the model's range: colour is scaled by alpha, so what lies
under a transparent pixel is 0 and never has to be learned, and a background is put in by one linear expression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["as_images", "on_background", "to_images", "to_pixels"]

FAINT = 12 / 255  # alpha that nobody sees, and a network hardly ever draws as nothing


def to_images(pixels: Tensor) -> Tensor:
    """Pixels, uint8 (b, h, w, 3 or 4), straight alpha -> images, float32 (b, 3 or 4, h, w) in [-1, 1].

    The result is channels-last in memory when ``pixels`` is contiguous. Colour is premultiplied by alpha around 0.
    """
    images = pixels.permute(0, 3, 1, 2).float().mul_(2 / 255).sub_(1)
    if images.shape[1] == 4:
        images[:, :3] *= (images[:, 3:] + 1) / 2
    return images


def as_images(pixels: np.ndarray) -> np.ndarray:
    """`to_images` of numpy arrays: uint8 (b, h, w, 4), straight alpha -> float32 (b, 4, h, w) in [-1, 1]."""
    values = np.moveaxis(pixels.astype(np.float32) * np.float32(2 / 255) - 1, -1, 1)
    values[:, :3] *= (values[:, 3:] + 1) / 2
    return np.ascontiguousarray(values)


def on_background(images: Tensor, background: Tensor) -> Tensor:
    """Images (b, 4, h, w) over a background, (b, 3, 1, 1) or (b, 3, h, w) in [-1, 1] -> colour (b, 3, h, w)."""
    return images[:, :3] + background * ((1 - images[:, 3:]) / 2)


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Images, float (b, 3 or 4, h, w), nominally in [-1, 1] -> pixels, uint8 (b, h, w, 3 or 4), straight alpha.

    The inverse of `to_images` up to rounding; values outside the range are clipped. Alpha below 12/255 becomes 0 and
    above 243/255 becomes 255, so that a background is clean and a body is solid.
    """
    values = np.moveaxis(images.astype(np.float32), 1, -1)
    if values.shape[-1] == 4:
        alpha = np.clip((values[..., 3:] + 1) / 2, 0, 1)
        alpha = np.where(alpha < FAINT, 0.0, np.where(alpha > 1 - FAINT, 1.0, alpha))
        colour = np.clip(values[..., :3] / np.maximum(alpha, 1 / 255), -1, 1) * (alpha > 0)
        values = np.concatenate([(colour + 1) / 2 * (alpha > 0), alpha], axis=-1)
    else:
        values = (np.clip(values, -1, 1) + 1) / 2
    return np.rint(values * 255).astype(np.uint8)
