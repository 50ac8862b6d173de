"""Images -> image_features in the text features' space; trained contrastively, it ranks and it guides."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli.config import ModelConfig
from t2i_cli.models.layers import Conv, Linear, StyledBlock, downsample, patchify

__all__ = ["ImageEncoder"]


class ImageEncoder(nn.Module):
    """A small residual network with a learned temperature (Radford et al. 2021, section 2.3)."""

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
        self.norm = nn.LayerNorm(widths[-1])
        self.head = Linear(widths[-1], config.text.dim)
        self.logit_scale = nn.Parameter(
            torch.tensor(math.log(1 / 0.07))
        )  # log of the inverse temperature

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, 4, h, w) in [-1, 1] -> image_features (b, d), fp32, unit norm."""
        x = self.feature_maps(images)[-1]
        return F.normalize(self.head(self.norm(x.float().mean(dim=(2, 3)))), dim=1)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Images (b, 4, h, w) in [-1, 1] -> what each level makes of them, finest first: (b, width, grid, grid)."""
        x = self.conv_in(patchify(images.to(self.trunk_dtype), self.config.patch))
        maps: list[Tensor] = []
        for index, level in enumerate(self.levels):
            if index:
                x = self.widen[index - 1](downsample(x))
            for block in level:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
            maps.append(x)
        return maps
