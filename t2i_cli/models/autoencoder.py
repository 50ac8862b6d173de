"""Pictures <-> latents: the encoder, the decoder, and the discriminator that keeps the decoder's edges crisp.

Enters: images (b, 4, r, r) in [-1, 1], colour premultiplied around grey. Leaves: latents (b, c, n, n) of unit variance
in every cell, and images again. The generator works on latents alone, so a training step of it decodes no picture.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from t2i_cli.config import ModelConfig
from t2i_cli.models.layers import Conv, channel_norm, patchify, unpatchify, upsample

__all__ = ["Decoder", "Encoder", "PatchDiscriminator"]

GAIN = 3**-0.5  # of the first weights: torch's own default for convolutions
PATCH_WIDTHS = (48, 96, 160)  # of the patch discriminator, finest grid first


class _Block(nn.Module):
    """x + conv(silu(conv(silu(norm(x) scale + shift)))); the last convolution starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_in = Conv(channels, channels, gain=GAIN)
        self.conv_out = Conv(channels, channels, zero=True)
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features (b, c, h, w) -> (b, c, h, w)."""
        h = torch.addcmul(self.shift.to(x.dtype), channel_norm(x), self.scale.to(x.dtype))
        return x + self.conv_out(F.silu(self.conv_in(F.silu(h))))


def _blocks(channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(_Block(channels) for _ in range(count))


class Encoder(nn.Module):
    """Images -> latents.

    The last layer norm gives every cell unit variance over its channels, so latents have one scale whatever the
    pictures, and no Kullback-Leibler term is needed to keep them there.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk_dtype = torch.float32
        widths = config.encoder_channels
        self.conv_in = Conv(4 * config.patch**2, widths[0], gain=GAIN)
        self.levels = nn.ModuleList(_blocks(width, config.autoencoder_blocks) for width in widths)
        self.widen = nn.ModuleList(Conv(a, b, gain=GAIN) for a, b in itertools.pairwise(widths))
        self.conv_out = Conv(widths[-1], config.latent_channels, gain=GAIN)

    def forward(self, images: Tensor) -> Tensor:
        """Images fp32 (b, 4, r, r) in [-1, 1] -> latents fp32 (b, c, n, n), of unit variance in every cell."""
        x = self.conv_in(patchify(images.to(self.trunk_dtype), self.config.patch))
        for index, level in enumerate(self.levels):
            if index:
                x = _halved(self.widen[index - 1], x)
            for block in level:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
        return channel_norm(self.conv_out(F.silu(x)).float())


def _halved(conv: nn.Module, x: Tensor) -> Tensor:
    """A 3x3 convolution at every second cell: (b, c, h, w) -> (b, c', h / 2, w / 2)."""
    assert isinstance(conv, Conv) and conv.bias is not None
    return F.conv2d(x, conv.weight.to(x.dtype), conv.bias.to(x.dtype), stride=2, padding=1)


class Decoder(nn.Module):
    """Latents -> images. It is trained with noise on the latents, so it bears what a generator gets a little wrong."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk_dtype = torch.float32
        widths = config.decoder_channels
        self.patch = config.resolution // (config.cells << (len(widths) - 1))
        self.conv_in = Conv(config.latent_channels, widths[0], gain=GAIN)
        last = len(widths) - 1
        self.levels = nn.ModuleList(
            _blocks(width, 1 if index == last else config.autoencoder_blocks)
            for index, width in enumerate(widths)
        )
        self.narrow = nn.ModuleList(Conv(a, b, gain=GAIN) for a, b in itertools.pairwise(widths))
        self.conv_out = Conv(widths[-1], 4 * self.patch**2, gain=GAIN)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents fp32 (b, c, n, n), of any n -> images fp32 (b, 4, r, r), nominally in [-1, 1]."""
        x = self.conv_in(latents.to(self.trunk_dtype).contiguous(memory_format=torch.channels_last))
        for index, level in enumerate(self.levels):
            if index:
                x = self.narrow[index - 1](upsample(x))
            for block in level:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
        return unpatchify(self.conv_out(F.silu(channel_norm(x))).float(), self.patch)


class PatchDiscriminator(nn.Module):
    """Says of every patch of a picture whether it is real (Isola et al. 2017, section 3.2.2; Miyato et al. 2018).

    It sees the picture as it is, and on a background, where colour that hides under transparency does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = PATCH_WIDTHS
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(*shape))
            for shape in (
                (7, first, 3, 1, 1),
                (first, second, 4, 2, 1),
                (second, third, 4, 2, 1),
                (third, third, 3, 1, 1),
                (third, 1, 3, 1, 1),
            )
        )
        self.trunk_dtype = torch.float32

    def forward(self, images: Tensor, on_background: Tensor) -> Tensor:
        """Images (b, 4, h, w) and their colours on a background (b, 3, h, w), in [-1, 1] -> logits (b, 1, h/4, w/4)."""
        x = torch.cat([images, on_background], dim=1).to(self.trunk_dtype)
        for index, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            if index:
                x = F.leaky_relu(x, 0.2)
            x = F.conv2d(
                x, conv.weight.to(x.dtype), conv.bias.to(x.dtype), conv.stride, conv.padding
            )
        return x.float()
