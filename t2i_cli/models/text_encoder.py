"""Tokens -> what they mean: text_embeds, one a token, and text_features, one a text, of unit norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli.config import TextEncoderConfig
from t2i_cli.models.layers import Linear, attend

__all__ = ["TextEncoder", "TextEncoding"]


@dataclass(frozen=True)
class TextEncoding:
    """What a network is told about a text."""

    text_embeds: Tensor  # (b, t, d)
    text_features: Tensor  # (b, d), fp32, unit norm
    mask: Tensor  # (b, t) bool, true where a token is real

    def __getitem__(self, rows: Tensor | slice) -> TextEncoding:
        """The encodings of some rows."""
        return TextEncoding(self.text_embeds[rows], self.text_features[rows], self.mask[rows])


class TextEncoder(nn.Module):
    """A bidirectional language-model transformer (pre-norm; Vaswani et al. 2017), or an LSTM as in Reed et al. 2016."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk_dtype = torch.float32
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        nn.init.normal_(self.embedding.weight, std=1.0)
        if config.kind == "lstm":
            half = config.dim // 2
            self.lstm = nn.LSTM(
                config.dim, half, config.depth, batch_first=True, bidirectional=True
            )
        else:
            self.blocks = nn.ModuleList(
                _Block(config.dim, config.heads) for _ in range(config.depth)
            )
        self.norm = nn.LayerNorm(config.dim)
        self.head = Linear(config.dim, config.dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> TextEncoding:
        """Tokens int64 (b, t) and mask bool (b, t), true where real -> `TextEncoding`."""
        x = self.embedding(tokens)
        if self.config.kind == "lstm":
            lengths = mask.sum(1).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=False
            )
            x, _ = nn.utils.rnn.pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1]
            )
        else:
            x = (x + _positions(tokens.shape[1], self.config.dim, x.device)).to(self.trunk_dtype)
            for block in self.blocks:
                x = block(x, mask)
        text_embeds = self.norm(x.float())
        weight = mask[:, :, None].float()
        pooled = (text_embeds * weight).sum(1) / weight.sum(1)
        return TextEncoding(text_embeds, F.normalize(self.head(pooled), dim=1), mask)


class _Block(nn.Module):
    """Self-attention and a perceptron, each on a normed copy and added to what came in."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim, zero=True)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp_in = Linear(dim, 4 * dim)
        self.mlp_out = Linear(4 * dim, dim, zero=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(b, t, d), mask (b, t) -> (b, t, d)."""
        b, t, d = x.shape
        h = F.layer_norm(
            x, (d,), self.norm_attention.weight.to(x.dtype), self.norm_attention.bias.to(x.dtype)
        )
        q, k, v = (
            self.qkv(h).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        h = attend(q, k, v, mask)
        x = x + self.out(h.transpose(1, 2).reshape(b, t, d))
        h = F.layer_norm(x, (d,), self.norm_mlp.weight.to(x.dtype), self.norm_mlp.bias.to(x.dtype))
        return x + self.mlp_out(F.gelu(self.mlp_in(h)))


def _positions(length: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoids (length, dim), Vaswani et al. 2017, section 3.5: they reach past the longest caption in training."""
    frequencies = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10_000.0) / dim))
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]
