"""Pixels and captions -> the colour that each names, and how often they agree."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from t2i_cli.evaluation.metrics import Estimate, mean_estimate

__all__ = [
    "COLOURS",
    "COLOUR_WORDS",
    "caption_colour",
    "colour_accuracy",
    "colour_names",
    "hue_name",
]

COLOURS = (
    "black", "gray", "white", "red", "orange", "yellow",
    "green", "teal", "blue", "purple", "pink", "brown",
)  # fmt: skip
COLOUR_WORDS = {
    **{name: name for name in COLOURS},
    "grey": "gray",
    "violet": "purple",
    "turquoise": "teal",
    "cyan": "teal",
}


def colour_names(pixels: np.ndarray) -> np.ndarray:
    """Every pixel's colour as an index into `COLOURS`: uint8 (..., 3 or more) -> int8 (...)."""
    red, green, blue = (pixels[..., i].astype(np.float32) / 255 for i in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    saturation = chroma / np.maximum(value, 1e-6)
    lightness = value - chroma / 2
    safe = np.maximum(chroma, 1e-6)
    hue = np.select(
        [value == red, value == green],
        [(green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    hue = hue * 60  # degrees
    index = {name: i for i, name in enumerate(COLOURS)}
    bounds = [
        (14, "red"),
        (40, "orange"),
        (68, "yellow"),
        (160, "green"),
        (190, "teal"),
        (252, "blue"),
        (292, "purple"),
        (346, "pink"),
    ]
    name = np.select(
        [hue < limit for limit, _ in bounds], [index[word] for _, word in bounds], index["red"]
    ).astype(np.int8)
    name[(hue >= 178) & (hue < 190) & (value > 0.75)] = index["blue"]
    warm = (hue >= 5) & (hue < 52)
    name[warm & (hue < 20) & (saturation > 0.7) & (value > 0.7)] = index["red"]
    name[warm & (value < 0.70) & (name != index["red"])] = index["brown"]
    name[(name == index["red"]) & warm & (value < 0.55)] = index["brown"]
    name[warm & (value < 0.82) & (saturation < 0.62)] = index["brown"]
    name[(name == index["red"]) & (lightness > 0.72)] = index["pink"]
    name[(name == index["pink"]) & (value < 0.55)] = index["purple"]
    plain = (
        (chroma < 0.10)
        | (saturation < 0.14)
        | ((chroma < 0.14) & (value < 0.75) & (saturation < 0.22))
    )
    name[plain] = index["gray"]
    name[plain & (value > 0.90)] = index["white"]
    name[(value < 0.20) | (plain & (value < 0.32)) | ((value < 0.30) & (chroma < 0.12))] = index[
        "black"
    ]
    return name


def hue_name(pixels: np.ndarray, *, share: float = 0.5) -> str | None:
    """The one named colour of a picture, or None where no colour covers ``share`` of its body.

    The body is what is opaque; in a picture without alpha, what differs from the colour of its
    border. Black lines around coloured shapes do not count.

    Args:
        pixels: uint8 (h, w, 4), straight alpha, or (h, w, 3).
        share: of the body that the colour must cover, 0 to 1.
    """
    if pixels.shape[-1] == 4:
        body = pixels[..., 3] > 127
    else:
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        body = np.abs(pixels.astype(np.int16) - np.median(border, axis=0)).max(-1) > 24
        if body.mean() < 0.02:
            body = np.ones(body.shape, bool)
    if body.sum() < max(4, body.size // 200):
        return None
    counts = np.bincount(colour_names(pixels[body]), minlength=len(COLOURS)).astype(np.float64)
    black = COLOURS.index("black")
    if counts[black] < 0.5 * counts.sum():
        counts[black] = 0
    best = int(counts.argmax())
    return COLOURS[best] if counts[best] >= share * counts.sum() else None


def caption_colour(caption: str) -> str | None:
    """The one colour that a caption gives to a thing, or None where it names none or several.

    A colour is an adjective: the last word of a caption is a thing ("an orange"), and so is the
    last word before a comma.

    >>> caption_colour("a red cat, flat icon"), caption_colour("an orange")
    ('red', None)
    >>> caption_colour("a red and white cat") is None
    True
    """
    found: set[str] = set()
    for part in caption.lower().split(","):
        words = re.findall(r"[a-z]+", part)
        found.update(COLOUR_WORDS[word] for word in words[:-1] if word in COLOUR_WORDS)
    return found.pop() if len(found) == 1 else None


def colour_accuracy(pixels: Sequence[np.ndarray] | np.ndarray, captions: Sequence[str]) -> Estimate:
    """Share of the pictures whose caption names one colour that have it; see `hue_name`."""
    asked = [(i, colour) for i, colour in enumerate(map(caption_colour, captions)) if colour]
    return mean_estimate(
        torch.tensor(
            [float(hue_name(pixels[i]) == colour) for i, colour in asked], dtype=torch.float64
        )
    )
