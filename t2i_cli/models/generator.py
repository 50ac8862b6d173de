"""Noise of the picture's own shape and a text -> a picture, in one step or along a rectified flow in many.

The network F is preconditioned as in Karras et al. 2022 (EDM, equation 7), in the rectified flow's own time: for
x_s = (1 - s) x + s n the denoised picture is c_skip(s) x_s + c_out(s) F(x_s, s, t), with c_skip(1) = 0. So a
picture made in one step from pure noise is sigma_data F(n, 1, t): no noise leaks into it, and the velocity
stays bounded at s -> 0.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli.config import ModelConfig
from t2i_cli.models.layers import (
    Attention,
    Conv,
    Linear,
    ResidualBlock,
    channel_norm,
    downsample,
    fold,
    level_features,
    unfold,
    upsample,
)
from t2i_cli.models.text_encoder import TextEncoding

__all__ = ["SIGMA_DATA", "Generator", "many_steps", "one_step"]

SIGMA_DATA = (
    0.6  # standard deviation of images, about; sets the preconditioning, not the model's range
)
# of `many_steps`: thirteen evaluations, seven guided steps, draw what twenty did in ten equal ones (docs/results.md)
SHIFT = 1.5
GUIDED_ABOVE = 0.35  # noise level


class Generator(nn.Module):
    """A U-shaped residual network; scale and shift of every block come from the noise level and text_features."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk_dtype = torch.float32
        widths, text_dim = config.channels, config.text.dim
        style_dim = max(128, text_dim)
        self.style_text = nn.Sequential(
            Linear(text_dim, style_dim), nn.SiLU(), Linear(style_dim, style_dim)
        )
        self.style_level = nn.Sequential(
            Linear(64, style_dim), nn.SiLU(), Linear(style_dim, style_dim)
        )
        cells = config.image_channels * config.fold**2
        self.conv_in = Conv(cells, widths[0])
        coarsest = len(widths) - 1
        self.down = nn.ModuleList(
            self._level(level, attention=level == coarsest) for level in range(len(widths))
        )
        self.up = nn.ModuleList(self._level(level, attention=True) for level in range(len(widths)))
        self.widen = nn.ModuleList(Conv(a, b, 1) for a, b in itertools.pairwise(widths))
        self.narrow = nn.ModuleList(Conv(b, a, 1) for a, b in itertools.pairwise(widths))
        self.merge = nn.ModuleList(Conv(2 * width, width, 1) for width in widths[:-1])
        self.conv_out = Conv(widths[0], cells, zero=True)
        # one linear map gives the scale and shift of every block, down then up, and of the last norm
        self.style_widths = [
            w for w in (*widths, *reversed(widths)) for _ in range(config.blocks)
        ] + [widths[0]]
        self.modulation = Linear(style_dim, 2 * sum(self.style_widths), zero=True)

    def _level(self, level: int, *, attention: bool) -> nn.ModuleDict:
        config = self.config
        width = config.channels[level]
        parts = {"blocks": nn.ModuleList(ResidualBlock(width) for _ in range(config.blocks))}
        grid = config.grid >> level
        if attention and grid in (*config.self_attention, *config.text_attention):
            text_dim = config.text.dim if grid in config.text_attention else 0
            cells = grid in config.self_attention
            parts["attention"] = Attention(width, config.head_dim, cells=cells, text_dim=text_dim)  # pyright: ignore[reportArgumentType]
        return nn.ModuleDict(parts)

    def style(self, text_features: Tensor) -> Tensor:
        """text_features (b, d), unit norm -> the mapped style w (b, style_dim), fp32."""
        return self.style_text(text_features.float() * text_features.shape[1] ** 0.5)

    def modulations(self, style: Tensor, level: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Style (b, style_dim), noise levels (b,) -> scale and shift, each (b, c, 1, 1), for every block in order."""
        flat = self.modulation(F.silu(style + self.style_level(level_features(level, 64))))
        pairs: list[tuple[Tensor, Tensor]] = []
        for piece in flat.split([2 * width for width in self.style_widths], dim=1):
            scale, shift = piece.to(self.trunk_dtype)[:, :, None, None].chunk(2, dim=1)
            pairs.append((1 + scale, shift))
        return pairs

    def forward(
        self, noisy: Tensor, level: Tensor, text_embeds: Tensor, mask: Tensor, style: Tensor
    ) -> Tensor:
        """The denoised picture.

        Args:
            noisy: x_s, fp32 (b, c, h, w).
            level: s in [0, 1], fp32 (b,); 1 is pure noise.
            text_embeds: (b, t, d).
            mask: bool (b, t).
            style: w (b, style_dim) of `style`.

        Returns:
            Images, fp32 (b, c, h, w), nominally in [-1, 1].
        """
        s = level.float()[:, None, None, None]
        variance = ((1 - s) * SIGMA_DATA) ** 2 + s**2
        c_skip = (1 - s) * SIGMA_DATA**2 / variance
        c_out = s * SIGMA_DATA * variance.rsqrt()
        trunk = self._trunk(noisy * variance.rsqrt(), level, text_embeds, mask, style)
        return torch.addcmul(c_skip * noisy, c_out, trunk)

    def _trunk(
        self, x: Tensor, level: Tensor, text_embeds: Tensor, mask: Tensor, style: Tensor
    ) -> Tensor:
        config = self.config
        styles = iter(self.modulations(style, level))
        embeds = text_embeds.to(self.trunk_dtype)
        x = self.conv_in(fold(x.to(self.trunk_dtype), config.fold))
        skips: list[Tensor] = []
        for index, parts in enumerate(self.down):
            x = _through(parts, x, styles, embeds, mask)
            if index < len(self.widen):
                skips.append(x)
                x = self.widen[index](downsample(x))
        for index in reversed(range(len(self.up))):
            if index < len(self.narrow):
                x = upsample(self.narrow[index](x))
                x = self.merge[index](torch.cat([x, skips.pop()], dim=1))
            x = _through(self.up[index], x, styles, embeds, mask)
        scale, shift = next(styles)
        x = self.conv_out(F.silu(torch.addcmul(shift, channel_norm(x), scale)))
        return unfold(x.float(), config.fold)


def _through(parts: nn.Module, x: Tensor, styles, embeds: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN001
    assert isinstance(parts, nn.ModuleDict)
    for block in parts["blocks"]:  # pyright: ignore[reportGeneralTypeIssues]
        x = block(x, *next(styles))
    if "attention" not in parts:
        return x
    attention = parts["attention"]
    return attention(x, embeds, mask) if hasattr(attention, "text_q") else attention(x)


def one_step(
    generator: Generator,
    noise: Tensor,
    text: TextEncoding,
    null: TextEncoding | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Pictures in one step: G(n, t), the denoised picture at s = 1.

    Args:
        generator: the network.
        noise: standard normal, fp32 (b, c, h, w).
        text: the prompts, b rows.
        null: the empty or the negative prompt, b rows; needed where guidance is not 1.
        guidance: how far the style is carried on past the null's: w = w_null + guidance (w - w_null).

    Returns:
        Images, fp32 (b, c, h, w).
    """
    style = generator.style(text.text_features)
    if guidance != 1.0:
        assert null is not None
        style_null = generator.style(null.text_features)
        style = style_null + guidance * (style - style_null)
    level = torch.ones(noise.shape[0], device=noise.device)
    return generator(noise, level, text.text_embeds, text.mask, style)


def many_steps(
    generator: Generator,
    noise: Tensor,
    text: TextEncoding,
    null: TextEncoding | None = None,
    steps: int = 20,
    guidance: float = 1.0,
) -> Tensor:
    """Pictures along the flow: steps of dx/ds = v = (x_s - denoised) / s from s = 1 to 0 (Liu et al. 2023).

    Each step but the first carries the denoised picture on, by half of its last change where steps are alike: the
    two-step formula of Adams and Bashforth, as DPM-Solver++(2M) has it (Lu et al. 2022), and no evaluation more than
    Euler's. Steps are shorter where there is much noise (Esser et al. 2024, equation 23, with a shift of `SHIFT`), and
    guidance is left out where there is little (Kynkäänniemi et al. 2024).

    Args:
        generator: the network after the flow stage.
        noise: standard normal, fp32 (b, c, h, w).
        text: the prompts, b rows.
        null: the empty or the negative prompt, b rows; needed where guidance is not 1.
        steps: from noise to picture; each with guidance is two evaluations of the network.
        guidance: classifier-free guidance (Ho & Salimans 2022): v_null + guidance (v - v_null).

    Returns:
        Images, fp32 (b, c, h, w).
    """
    x, style = noise, generator.style(text.text_features)
    style_null = generator.style(null.text_features) if null is not None else style
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    levels = (SHIFT * times / (1 + (SHIFT - 1) * times)).tolist()
    before: Tensor | None = None
    last = 0.0  # length of the step before
    for now, then in itertools.pairwise(levels):
        level = torch.full((x.shape[0],), now, device=x.device)
        clean = generator(x, level, text.text_embeds, text.mask, style)
        if guidance != 1.0 and now > GUIDED_ABOVE:
            assert null is not None
            clean_null = generator(x, level, null.text_embeds, null.mask, style_null)
            clean = clean_null + guidance * (clean - clean_null)
        ahead = clean if before is None else clean + 0.5 * (now - then) / last * (clean - before)
        before, last = clean, now - then
        x = x + (then - now) * (x - ahead) / now
    return x
