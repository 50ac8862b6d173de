"""A picture and a text -> a logit: the generator's own way down, and a projection onto the text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli.config import ModelConfig
from t2i_cli.models.generator import SIGMA_DATA, Generator
from t2i_cli.models.layers import Attention, Conv, Linear, StyledBlock, downsample, fold

__all__ = ["Discriminator", "Judgement"]


@dataclass(frozen=True)
class Judgement:
    """What D says of pictures before a text is asked about."""

    features: Tensor  # phi(x), fp32 (b, width)
    image_features: Tensor  # e(x), fp32 (b, d), unit norm


class Discriminator(nn.Module):
    """Projection discriminator (Miyato & Koyama 2018, equation 3) on a residual trunk that sees no text.

    The text enters only in the head, so one pass over the pictures serves every caption that they are held against.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk_dtype = torch.float32
        widths = config.channels
        self.conv_in = Conv(config.image_channels * config.fold**2, widths[0])
        self.levels = nn.ModuleList(
            nn.ModuleList(StyledBlock(w) for _ in range(config.blocks)) for w in widths
        )
        self.attention = nn.ModuleDict(
            {
                str(level): Attention(width, config.head_dim, cells=True)
                for level, width in enumerate(widths)
                if level == len(widths) - 1 and config.grid >> level in config.self_attention
            }
        )
        self.widen = nn.ModuleList(Conv(a, b, 1) for a, b in itertools.pairwise(widths))
        self.tail = nn.ModuleList(StyledBlock(widths[-1]) for _ in range(2))
        side = max(config.grid >> len(widths), 1)
        self.pool = nn.Parameter(torch.full((widths[-1], side, side), 1 / side**2))
        width = max(256, widths[-1])
        self.mix = nn.Sequential(Linear(widths[-1], width), nn.SiLU())
        self.text = Linear(config.text.dim, width)  # W
        self.unconditional = Linear(width, 1)  # v
        self.image_head = Linear(width, config.text.dim)  # e

    def forward(self, images: Tensor) -> Judgement:
        """Images fp32 (b, c, h, w) in [-1, 1] -> `Judgement`."""
        x = self.conv_in(fold(images.to(self.trunk_dtype), self.config.fold))
        for index, level in enumerate(self.levels):
            for block in level:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
            if str(index) in self.attention:
                x = self.attention[str(index)](x)
            if index < len(self.widen):
                x = self.widen[index](downsample(x))
        x = downsample(x)
        for block in self.tail:
            x = block(x)
        features = self.mix((x.float() * self.pool).sum(dim=(2, 3)))
        return Judgement(features, F.normalize(self.image_head(features), dim=1))

    def logits(self, features: Tensor, text_features: Tensor) -> Tensor:
        """phi(x) (b, width) and text_features (b, d), unit norm -> logits (b,), fp32: phi W t / sqrt(width) + v phi."""
        scaled = text_features.float() * text_features.shape[1] ** 0.5
        matched = (features * self.text(scaled)).sum(1) / features.shape[1] ** 0.5
        return matched + self.unconditional(features)[:, 0]

    @torch.no_grad()
    def start_from(self, generator: Generator, null_features: Tensor) -> None:
        """Take over the generator's way down, styled as for a clean picture and the empty text (1, d).

        The noise of a picture that D sees is zero, so every block's scale and shift are those at s = 0.
        """
        level = torch.zeros(1, device=null_features.device)
        styles = iter(generator.modulations(generator.style(null_features), level))
        self.conv_in.load_state_dict(generator.conv_in.state_dict())
        self.conv_in.weight /= (
            SIGMA_DATA  # the generator is shown a clean picture as x / sigma_data
        )
        for index, level_blocks in enumerate(self.levels):
            source = generator.down[index]
            assert isinstance(source, nn.ModuleDict)
            for mine, theirs in zip(level_blocks, source["blocks"], strict=True):  # pyright: ignore[reportArgumentType]
                scale, shift = next(styles)
                mine.block.load_state_dict(theirs.state_dict())
                mine.scale.copy_(scale[0, :, 0, 0].float())
                mine.shift.copy_(shift[0, :, 0, 0].float())
            if str(index) in self.attention:
                attention = self.attention[str(index)]
                wanted = attention.state_dict().keys()
                attention.load_state_dict(
                    {k: v for k, v in source["attention"].state_dict().items() if k in wanted}
                )
        for mine, theirs in zip(self.widen, generator.widen, strict=True):
            mine.load_state_dict(theirs.state_dict())
