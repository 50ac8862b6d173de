"""Noise, a noise level, a text, attributes and reference pictures -> latents: the generator.

A convolutional U-Net over the cells of the latents (Ronneberger et al. 2015; Dhariwal & Nichol 2021), trained by flow
matching (Lipman et al. 2023; Liu et al. 2023): x_s = (1 - s) x + s n, and the network gives the velocity n - x. It
draws *from pictures*: it attends to the latents of a few training pictures whose captions are nearest to the prompt
(retrieval-augmented generation: Blattmann et al. 2022, arXiv 2204.11824; Re-Imagen, arXiv 2209.14491).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli.config import ModelConfig
from t2i_cli.models.layers import Conv, Linear, attend, level_features
from t2i_cli.models.text_encoder import TextEncoding

__all__ = ["Generator", "ReadReferences"]

GAIN = 3**-0.5  # of the first weights: torch's own default for convolutions
GROUPS = 8  # of the group norms (Wu & He 2018)
LEVEL_FEATURES = 256  # cosines and sines that say the noise level


@dataclass(frozen=True)
class ReadReferences:
    """What the generator reads off its reference pictures: once a picture, for every step of the sampler."""

    fine: Tensor  # (b, 1 + k n^2, d): "no reference", then every cell of the k pictures
    coarse: Tensor  # (b, 1 + k (n / 2)^2, 2 d): the same at half the grid
    mean: Tensor  # (b, d, n, n): the mean of the k pictures

    def __getitem__(self, rows: Tensor | slice) -> ReadReferences:
        """Those of some rows."""
        return ReadReferences(self.fine[rows], self.coarse[rows], self.mean[rows])


class _Norm(nn.GroupNorm):
    """Group norm in the dtype of its input: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__(GROUPS, channels, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        """Features (b, c, h, w) -> (b, c, h, w)."""
        weight = self.weight.to(input.dtype) if self.affine else None
        bias = self.bias.to(input.dtype) if self.affine else None
        return F.group_norm(input, self.num_groups, weight, bias, self.eps)


class _Block(nn.Module):
    """A residual block whose middle is scaled and shifted by the condition (Dhariwal & Nichol 2021, section 3)."""

    def __init__(self, channels_in: int, channels_out: int, condition: int) -> None:
        super().__init__()
        self.norm_in = _Norm(channels_in)
        self.conv_in = Conv(channels_in, channels_out, gain=GAIN)
        self.norm_out = _Norm(channels_out, affine=False)
        self.modulation = Linear(condition, 2 * channels_out, zero=True)
        self.conv_out = Conv(channels_out, channels_out, zero=True)
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else Conv(channels_in, channels_out, 1, gain=GAIN)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Features (b, c_in, h, w), condition (b, e) -> (b, c_out, h, w)."""
        h = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.modulation(condition).to(x.dtype)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        return self.skip(x) + self.conv_out(F.silu(h))


class _Attention(nn.Module):
    """Cells attend to each other, or to what was read off references; queries and keys of unit variance."""

    def __init__(self, channels: int, head_dim: int, *, references: bool) -> None:
        super().__init__()
        self.heads = max(1, channels // head_dim)
        self.norm = _Norm(channels)
        self.query = Conv(channels, channels, 1, gain=GAIN)
        self.key_value = Linear(channels, 2 * channels, gain=GAIN)
        self.out = Conv(channels, channels, 1, zero=True)
        self.references = references
        if references:
            self.sharpness = nn.Parameter(torch.tensor(2.0))  # of the softmax

    def _heads(self, x: Tensor) -> Tensor:
        """(b, t, c) -> (b, heads, t, c / heads)."""
        b, t, c = x.shape
        return x.view(b, t, self.heads, c // self.heads).transpose(1, 2)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Features (b, c, h, w) and what they attend to, (b, m, c), or themselves where None -> (b, c, h, w)."""
        b, c, h, w = x.shape
        normed = self.norm(x)
        q = self._heads(self.query(normed).flatten(2).transpose(1, 2))
        told = normed.flatten(2).transpose(1, 2) if seen is None else seen.to(x.dtype)
        k, v = (self._heads(part) for part in self.key_value(told).chunk(2, dim=2))
        width = (q.shape[-1],)
        q, k = F.layer_norm(q, width), F.layer_norm(k, width)
        if self.references:
            q = q * self.sharpness.to(q.dtype)
        found = attend(q, k, v).transpose(2, 3).reshape(b, c, h, w)
        return x + self.out(found)


class Generator(nn.Module):
    """Latents from noise, in as many steps as the sampler takes.

    Args:
        config: of the model; `config.channels` are the widths at the latents' cells and at half of that grid.
    """

    text_mean: Tensor  # (d,), of the captions' text features
    text_whiten: Tensor  # (d, d)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk_dtype = torch.float32
        fine, coarse = config.channels
        width = 3 * fine  # of the condition
        n, blocks, latent = config.cells, config.blocks, config.latent_channels
        # what is asked for
        self.text = Linear(config.text.dim, width, gain=GAIN)
        self.tokens = nn.Embedding(config.text.vocab_size, width)
        nn.init.normal_(self.tokens.weight, std=0.5)
        self.attributes = nn.ModuleList(
            nn.Embedding(len(attribute.values) + 1, width) for attribute in config.attributes
        )
        self.null = nn.Parameter(torch.zeros(width))
        self.level = nn.Sequential(
            Linear(LEVEL_FEATURES, width, gain=GAIN), nn.SiLU(), Linear(width, width, gain=GAIN)
        )
        self.mix = nn.Sequential(nn.SiLU(), Linear(width, width, gain=GAIN), nn.SiLU())
        self.register_buffer("text_mean", torch.zeros(config.text.dim))
        self.register_buffer("text_whiten", torch.eye(config.text.dim) * config.text.dim**0.5)
        # the references
        self.reference_in = Conv(latent, fine, gain=GAIN)
        self.reference_attributes = nn.ModuleList(
            nn.Embedding(len(attribute.values) + 1, width) for attribute in config.attributes
        )
        self.reference_block = _Block(fine, fine, width)
        self.reference_down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.reference_mean = Conv(fine, fine, 1, zero=True)
        self.fine_positions = nn.Parameter(torch.randn(1, n * n, fine) * 0.1)
        self.coarse_positions = nn.Parameter(torch.randn(1, n * n // 4, coarse) * 0.1)
        self.fine_none = nn.Parameter(torch.zeros(1, 1, fine))
        self.coarse_none = nn.Parameter(torch.zeros(1, 1, coarse))
        # the trunk: down, middle, up; attention to the references at both grids, twice each
        self.conv_in = Conv(latent, fine, gain=GAIN)
        self.positions = nn.Parameter(torch.zeros(1, fine, n, n))
        self.down = nn.ModuleList(_Block(fine, fine, width) for _ in range(blocks))
        self.widen = nn.Conv2d(fine, coarse, 2, stride=2)
        self.middle_positions = nn.Parameter(torch.zeros(1, coarse, n // 2, n // 2))
        self.middle = nn.ModuleList(_Block(coarse, coarse, width) for _ in range(2 * blocks))
        head = config.head_dim
        self.self_attention = nn.ModuleList(
            _Attention(coarse, head, references=False) for _ in range(blocks)
        )
        self.narrow = nn.ConvTranspose2d(coarse, fine, 2, stride=2)
        self.up = nn.ModuleList(_Block(2 * fine, fine, width) for _ in range(blocks))
        self.down_attention = _Attention(fine, head, references=True)
        self.middle_attention = nn.ModuleList(
            _Attention(coarse, head, references=True) for _ in range(2)
        )
        self.up_attention = _Attention(fine, head, references=True)
        self.norm_out = _Norm(fine)
        self.conv_out = Conv(fine, latent, zero=True)

    @torch.no_grad()
    def whiten(self, text_features: Tensor, share: float = 0.1) -> None:
        """Learn how to tell the texts of the data apart: features (m, d) of its captions -> mean and whitening.

        Eigenvalues below a share of their mean are not blown up (regularised ZCA whitening, Kessy et al. 2018).
        """
        features = text_features.double()
        centred = features - features.mean(0)
        covariance = centred.T @ centred / max(len(features) - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        scale = (values.clamp(min=0) + share * values.mean().clamp(min=1e-6)).rsqrt()
        self.text_mean.copy_(features.mean(0))
        self.text_whiten.copy_((vectors * scale) @ vectors.T)

    def whitened(self, text_features: Tensor) -> Tensor:
        """text_features (b, d), unit norm -> (b, d) with about unit variance in every direction."""
        return (text_features.float() - self.text_mean) @ self.text_whiten

    def condition(
        self,
        text: TextEncoding,
        tokens: Tensor,
        attributes: Tensor,
        without_text: Tensor | None = None,
    ) -> Tensor:
        """What is asked for.

        Args:
            text: of the captions, b rows.
            tokens: their tokens int64 (b, t); `text.mask` says which are real.
            attributes: int64 (b, a): the place of each attribute's value, the number of values for none.
            without_text: bool (b,), rows that are asked for without their caption.

        Returns:
            fp32 (b, e).
        """
        mask = text.mask[:, :, None].float()
        words = (self.tokens(tokens) * mask).sum(1) * mask.sum(1).clamp(min=1).rsqrt()
        asked = self.text(self.whitened(text.text_features)) + words
        if without_text is not None:
            asked = torch.where(without_text[:, None], self.null, asked)
        for index, embedding in enumerate(self.attributes):
            asked = asked + embedding(attributes[:, index])
        return asked

    def null_condition(self, attributes: Tensor) -> Tensor:
        """The condition of attributes int64 (b, a) without a text: fp32 (b, e)."""
        asked = self.null.expand(attributes.shape[0], -1)
        for index, embedding in enumerate(self.attributes):
            asked = asked + embedding(attributes[:, index])
        return asked

    def read(
        self, latents: Tensor, attributes: Tensor, without: Tensor | None = None
    ) -> ReadReferences:
        """What references say.

        Args:
            latents: of the references, (b, k, c, n, n), k at least 1.
            attributes: theirs, int64 (b, k, a), as in `condition`.
            without: bool (b,), rows that see no reference.
        """
        b, k = latents.shape[:2]
        dtype = self.trunk_dtype
        style = torch.zeros(b * k, self.null.shape[0], device=latents.device)
        for index, embedding in enumerate(self.reference_attributes):
            style = style + embedding(attributes[..., index].flatten())
        flat = latents.flatten(0, 1).to(dtype).contiguous(memory_format=torch.channels_last)
        fine = self.reference_block(self.reference_in(flat), F.silu(style))
        coarse = _conv(self.reference_down, F.silu(fine))
        mean = fine.view(b, k, *fine.shape[1:]).mean(1)
        none, none_coarse = self.fine_none.to(dtype), self.coarse_none.to(dtype)
        cells = fine.flatten(2).transpose(1, 2) + self.fine_positions.to(dtype)
        coarse_cells = coarse.flatten(2).transpose(1, 2) + self.coarse_positions.to(dtype)
        cells = torch.cat([none.expand(b, -1, -1), cells.reshape(b, -1, cells.shape[2])], 1)
        coarse_cells = torch.cat(
            [none_coarse.expand(b, -1, -1), coarse_cells.reshape(b, -1, coarse_cells.shape[2])], 1
        )
        if without is not None:
            rows = without[:, None, None]
            cells = torch.where(rows, none, cells)
            coarse_cells = torch.where(rows, none_coarse, coarse_cells)
            mean = torch.where(rows[..., None], torch.zeros_like(mean), mean)
        return ReadReferences(cells, coarse_cells, mean)

    def no_references(self, rows: int) -> ReadReferences:
        """What is read where there is no reference."""
        n, dtype = self.config.cells, self.trunk_dtype
        mean = torch.zeros(rows, self.config.channels[0], n, n, device=self.null.device)
        return ReadReferences(
            self.fine_none.to(dtype).expand(rows, -1, -1),
            self.coarse_none.to(dtype).expand(rows, -1, -1),
            mean.to(dtype),
        )

    def forward(
        self, noisy: Tensor, level: Tensor, condition: Tensor, references: ReadReferences
    ) -> Tensor:
        """The velocity n - x at x_s.

        Args:
            noisy: x_s, fp32 (b, c, n, n).
            level: s in [0, 1], fp32 (b,); 1 is pure noise.
            condition: (b, e) of `condition`.
            references: of `read`.

        Returns:
            fp32 (b, c, n, n).
        """
        said = self.mix(condition + self.level(level_features(level, LEVEL_FEATURES)))
        said = said.to(self.trunk_dtype)
        x = self.conv_in(noisy.to(self.trunk_dtype).contiguous(memory_format=torch.channels_last))
        x = x + self.positions.to(x.dtype) + self.reference_mean(references.mean.to(x.dtype))
        skips: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(x, said)
            if index == 0:
                x = self.down_attention(x, references.fine)
            skips.append(x)
        x = _conv(self.widen, x) + self.middle_positions.to(x.dtype)
        for index, block in enumerate(self.middle):
            x = block(x, said)
            if index % 2 == 0:
                x = self.self_attention[index // 2](x)
            if index in (0, len(self.middle) // 2):
                x = self.middle_attention[min(index, 1)](x, references.coarse)
        x = F.conv_transpose2d(
            x, self.narrow.weight.to(x.dtype), _bias(self.narrow).to(x.dtype), stride=2
        )
        for index, block in enumerate(self.up):
            x = block(torch.cat([x, skips.pop()], dim=1), said)
            if index == min(1, len(self.up) - 1):
                x = self.up_attention(x, references.fine)
        return self.conv_out(F.silu(self.norm_out(x))).float()


def _conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution with a stride, in the dtype of its input."""
    return F.conv2d(x, layer.weight.to(x.dtype), _bias(layer).to(x.dtype), stride=layer.stride)


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
