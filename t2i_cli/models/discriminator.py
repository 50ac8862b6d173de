"""Images and texts -> logits: the discriminator that a one-step generator is trained against."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli.config import ModelConfig
from t2i_cli.models.image_encoder import ImageEncoder
from t2i_cli.models.layers import Conv, Linear, StyledBlock, downsample, patchify

__all__ = ["Discriminator", "Judgement"]


@dataclass(frozen=True)
class Judgement:
    """What D says of pictures before a text is asked about."""

    features: Tensor  # phi(x), fp32 (b, width)
    image_features: Tensor  # e(x), fp32 (b, d), unit norm


class Discriminator(nn.Module):
    """Projection discriminator (Miyato & Koyama 2018, equation 3) on a residual trunk that sees no text.

    The text enters only in the head, so one pass over the pictures serves every caption that they are held against.
    Its trunk is that of the image encoder, from whose weights it starts.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk_dtype = torch.float32
        widths = config.image_encoder_channels
        self.conv_in = Conv(4 * config.patch**2, widths[0])
        self.levels = nn.ModuleList(
            nn.ModuleList(StyledBlock(width) for _ in range(2)) for width in widths
        )
        self.widen = nn.ModuleList(Conv(a, b, 1) for a, b in itertools.pairwise(widths))
        side = config.grid >> (len(widths) - 1)
        self.pool = nn.Parameter(torch.full((widths[-1], side, side), 1 / side**2))
        width = max(256, widths[-1])
        self.mix = nn.Sequential(Linear(widths[-1], width), nn.SiLU())
        self.text = Linear(config.text.dim, width)  # W
        self.unconditional = Linear(width, 1)  # v
        self.image_head = Linear(width, config.text.dim)  # e

    def forward(self, images: Tensor) -> Judgement:
        """Images fp32 (b, 4, h, w) in [-1, 1] -> `Judgement`."""
        x = self.conv_in(patchify(images.to(self.trunk_dtype), self.config.patch))
        for index, level in enumerate(self.levels):
            if index:
                x = self.widen[index - 1](downsample(x))
            for block in level:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
        features = self.mix((x.float() * self.pool).sum(dim=(2, 3)))
        return Judgement(features, F.normalize(self.image_head(features), dim=1))

    def logits(self, features: Tensor, text_features: Tensor) -> Tensor:
        """phi(x) (b, width) and text_features (b, d), unit norm -> logits (b,), fp32: phi W t / sqrt(width) + v phi."""
        scaled = text_features.float() * text_features.shape[1] ** 0.5
        matched = (features * self.text(scaled)).sum(1) / features.shape[1] ** 0.5
        return matched + self.unconditional(features)[:, 0]

    def start_from(self, image_encoder: ImageEncoder) -> None:
        """Begin with the trunk of a trained image encoder, which knows pictures already."""
        for name in ("conv_in", "levels", "widen"):
            getattr(self, name).load_state_dict(getattr(image_encoder, name).state_dict())
