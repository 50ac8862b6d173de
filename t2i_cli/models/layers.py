"""The pieces that the networks share: tensors in, tensors out.

Feature maps are (b, c, h, w), channels-last in memory. Parameters stay fp32; every layer casts its weight to the dtype
of what it is given, so the dtype of the input decides the dtype of the trunk (bf16 in training, fp32 when a picture
must be the same to the last bit).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Conv",
    "Linear",
    "ResidualBlock",
    "StyledBlock",
    "attend",
    "channel_norm",
    "downsample",
    "level_features",
    "patchify",
    "unpatchify",
    "upsample",
]


_LANES = 16  # keys


class Conv(nn.Conv2d):
    """A convolution that keeps the picture's size, in the dtype of its input: (b, c_in, h, w) -> (b, c_out, h, w)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        *,
        zero: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2)
        if zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.normal_(self.weight, std=gain * (channels_in * kernel * kernel) ** -0.5)
        nn.init.zeros_(_known(self.bias))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, input: Tensor) -> Tensor:
        """Features (b, c_in, h, w) -> (b, c_out, h, w)."""
        return F.conv2d(
            input,
            self.weight.to(input.dtype),
            _known(self.bias).to(input.dtype),
            padding=self.padding,
        )  # pyright: ignore[reportArgumentType]


class Linear(nn.Linear):
    """A linear map in the dtype of its input: (..., c_in) -> (..., c_out)."""

    def __init__(
        self, channels_in: int, channels_out: int, *, zero: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__(channels_in, channels_out)
        if zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.normal_(self.weight, std=gain * channels_in**-0.5)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Features (..., c_in) -> (..., c_out)."""
        return F.linear(input, self.weight.to(input.dtype), self.bias.to(input.dtype))


def _known(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias


def channel_norm(x: Tensor) -> Tensor:
    """Layer norm over the channels of every cell, without parameters: (b, c, h, w) -> (b, c, h, w)."""
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)


def patchify(images: Tensor, size: int) -> Tensor:
    """Blocks of size x size pixels become channels: (b, c, h, w) -> (b, c size^2, h / size, w / size)."""
    b, c, h, w = images.shape
    cells = images.view(b, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1)
    return cells.reshape(b, h // size, w // size, size * size * c).permute(0, 3, 1, 2)


def unpatchify(cells: Tensor, size: int) -> Tensor:
    """The inverse of `patchify`: (b, c size^2, h, w) -> (b, c, h size, w size)."""
    b, c, h, w = cells.shape
    pixels = cells.permute(0, 2, 3, 1).reshape(b, h, w, size, size, c // size**2)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(b, c // size**2, h * size, w * size)


def downsample(x: Tensor) -> Tensor:
    """Means of 2 x 2 cells: (b, c, h, w) -> (b, c, h / 2, w / 2)."""
    return F.avg_pool2d(x, 2)


def upsample(x: Tensor) -> Tensor:
    """Each cell four times: (b, c, h, w) -> (b, c, 2 h, 2 w)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def level_features(level: Tensor, dim: int) -> Tensor:
    """Noise levels (b,) in [0, 1] -> fp32 features (b, dim): cosines and sines, Vaswani et al. 2017, section 3.5."""
    frequencies = torch.exp(
        torch.arange(dim // 2, device=level.device) * (-math.log(1000.0) / (dim // 2))
    )
    angles = level.float()[:, None] * 100.0 * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention: q (b, heads, n, c), k and v (b, heads, m, c), mask (b, m), true where a key is real.

    On the CPU the two matrix products are written out: torch's fused kernel takes 2 to 5 times as long there, forward
    and backward together, at 64 to 256 keys. In bf16, keys are filled up to whole lanes: a softmax over 30 of them
    takes six times as long as over 32.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=None if mask is None else mask[:, None, None, :]
        )
    if mask is not None and q.dtype == torch.bfloat16 and (odd := -k.shape[-2] % _LANES):
        k, v, mask = F.pad(k, (0, 0, 0, odd)), F.pad(v, (0, 0, 0, odd)), F.pad(mask, (0, odd))
    weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if mask is not None:
        weights = weights + torch.where(mask, 0.0, -1e4).to(q.dtype)[:, None, None, :]
    return torch.matmul(weights.softmax(dim=-1), v)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(norm(x) scale + shift))): two dense 3x3 convolutions and as little else as will train.

    The last convolution starts at zero, so a deep stack starts as the identity (Zhang et al. 2019, Fixup).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_in = Conv(channels, channels)
        self.conv_out = Conv(channels, channels, zero=True)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Features (b, c, h, w), scale and shift (b or 1, c, 1, 1) in x's dtype -> (b, c, h, w)."""
        h = torch.addcmul(shift, channel_norm(x), scale)
        return x + self.conv_out(F.silu(self.conv_in(h)))


class StyledBlock(nn.Module):
    """A `ResidualBlock` with a scale and a shift of its own: for networks that see no text in their trunk."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = ResidualBlock(channels)
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Features (b, c, h, w) -> (b, c, h, w)."""
        scale, shift = (v.to(x.dtype)[None, :, None, None] for v in (self.scale, self.shift))
        return self.block(x, scale, shift)
