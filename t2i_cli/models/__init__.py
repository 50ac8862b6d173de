"""The networks: tensors -> tensors, one network a file, built from one config."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2i_cli.config import ModelConfig
from t2i_cli.models.discriminator import Discriminator, Judgement
from t2i_cli.models.generator import Generator, many_steps, one_step
from t2i_cli.models.grow import grow
from t2i_cli.models.image_encoder import ImageEncoder
from t2i_cli.models.text_encoder import TextEncoder, TextEncoding

__all__ = [
    "Discriminator",
    "Generator",
    "ImageEncoder",
    "Judgement",
    "Networks",
    "TextEncoder",
    "TextEncoding",
    "build",
    "encode",
    "grow",
    "many_steps",
    "one_step",
]


class Networks(nn.Module):
    """The networks of one model; `discriminator` is there only in training."""

    def __init__(self, config: ModelConfig, *, discriminator: bool = False) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = TextEncoder(config.text)
        self.image_encoder = ImageEncoder(config)
        self.generator = Generator(config)
        if discriminator:
            self.discriminator = Discriminator(config)

    def set_trunk_dtype(self, dtype: torch.dtype) -> None:
        """The dtype in which the networks' trunks compute: bfloat16 in training, float32 for exact pictures."""
        for network in self.children():
            network.trunk_dtype = dtype  # pyright: ignore[reportArgumentType]

    def parameter_count(self) -> dict[str, int]:
        """Parameters of each network."""
        return {
            name: sum(p.numel() for p in net.parameters()) for name, net in self.named_children()
        }


def build(
    config: ModelConfig, device: str | torch.device = "cpu", *, discriminator: bool = False
) -> Networks:
    """Fresh networks on a device; on "meta" they hold names and shapes and no memory."""
    with torch.device(device):
        return Networks(config, discriminator=discriminator)


def encode(encoder: TextEncoder, tokens: Tensor, mask: Tensor) -> TextEncoding:
    """`TextEncoding` of tokens (b, t); columns that are padding in every row are cut first, which changes nothing."""
    longest = int(mask.sum(1).max())
    return encoder(tokens[:, :longest], mask[:, :longest])
