"""Pixels and captions -> features to measure with: the encoder that no training loss ever sees.

It shares nothing with the networks that are trained with a generator: another architecture (a
ResNet with batch normalisation, on 64 px), another reader of text (a bag of hashed words and word
pairs, no tokenizer), another seed. `benchmarks/train_eval_encoder.py` makes its weights.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RESOLUTION", "EvalEncoder", "hash_words", "pictures_to_inputs"]

RESOLUTION = 64  # px, the side of a picture that the encoder sees
_BUCKETS = 12_288  # rows of the word table; row 0 is no word
_WORDS = 24  # words and word pairs of a caption that are read, of each
_WIDTHS = (32, 64, 128, 192)  # channels at 32, 16, 8 and 4 px
_DIM = 128  # of the space that pictures and captions share


class EvalEncoder(nn.Module):
    """Pictures -> features for distances (b, 192), and a space shared with captions (b, 128)."""

    feature_dim = _WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(4, _WIDTHS[0], 4, 2, 1, bias=False), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU()
        )
        blocks: list[nn.Module] = [_Block(_WIDTHS[0], _WIDTHS[0], 1)]
        for narrow, wide in itertools.pairwise(_WIDTHS):
            blocks += [_Block(narrow, wide, 2), _Block(wide, wide, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.image_head = nn.Linear(self.feature_dim, _DIM)
        self.words = nn.Embedding(_BUCKETS, _DIM, padding_idx=0)
        self.text_head = nn.Sequential(
            nn.LayerNorm(_DIM), nn.Linear(_DIM, 256), nn.ReLU(), nn.Linear(256, _DIM)
        )

    def features(self, inputs: Tensor) -> Tensor:
        """Inputs (b, 4, 64, 64) -> pooled features (b, 192), not below 0."""
        return self.blocks(self.stem(inputs)).float().mean(dim=(2, 3))

    def image_features(self, features: Tensor) -> Tensor:
        """Pooled features (b, 192) -> unit features (b, 128) in the space of captions."""
        return F.normalize(self.image_head(features), dim=1)

    def text_features(self, words: Tensor) -> Tensor:
        """Hashed words, int64 (b, w) of `hash_words` -> unit features (b, 128)."""
        known = (words > 0).sum(1, keepdim=True).clamp_min(1)
        mean = self.words(words).sum(1) / known.sqrt()
        return F.normalize(mean + self.text_head(mean), dim=1)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(narrow, wide, 3, stride, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wide),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(
                nn.AvgPool2d(2), nn.Conv2d(narrow, wide, 1, bias=False), nn.BatchNorm2d(wide)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


def pictures_to_inputs(pixels: Tensor) -> Tensor:
    """Pixels, uint8 (b, h, w, 3 or 4), straight alpha -> inputs, float32 (b, 4, 64, 64) in [-1, 1].

    Colour is laid on white, alpha stays beside it; pictures without alpha are opaque.
    """
    values = pixels.permute(0, 3, 1, 2).float() / 255
    alpha = values[:, 3:] if values.shape[1] == 4 else torch.ones_like(values[:, :1])
    values = torch.cat([values[:, :3] * alpha + (1 - alpha), alpha], dim=1)
    if values.shape[-2:] != (RESOLUTION, RESOLUTION):
        values = F.interpolate(
            values, (RESOLUTION, RESOLUTION), mode="bilinear", antialias=True, align_corners=False
        )
    return (values * 2 - 1).contiguous(memory_format=torch.channels_last)


def hash_words(captions: Sequence[str]) -> Tensor:
    """Captions -> rows of the word table, int64 (b, 48): words, pairs of neighbours, then 0."""
    rows = torch.zeros(len(captions), 2 * _WORDS, dtype=torch.long)
    for row, caption in zip(rows, captions, strict=True):
        words = re.findall(r"\w+", caption.lower())[:_WORDS]
        pairs = [f"{left} {right}" for left, right in itertools.pairwise(words)]
        for i, word in enumerate(words + pairs):
            row[i] = 1 + zlib.crc32(word.encode()) % (_BUCKETS - 1)
    return rows
