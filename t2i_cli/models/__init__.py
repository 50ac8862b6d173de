"""The networks: tensors -> tensors, one network a file, built from one config."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2i_cli.config import ModelConfig
from t2i_cli.models.autoencoder import Decoder, Encoder, PatchDiscriminator
from t2i_cli.models.discriminator import Discriminator, Judgement
from t2i_cli.models.generator import Generator, ReadReferences
from t2i_cli.models.image_encoder import ImageEncoder
from t2i_cli.models.text_encoder import TextEncoder, TextEncoding

__all__ = [
    "NETWORKS",
    "Decoder",
    "Discriminator",
    "Encoder",
    "Generator",
    "ImageEncoder",
    "Judgement",
    "Networks",
    "PatchDiscriminator",
    "ReadReferences",
    "TextEncoder",
    "TextEncoding",
    "build",
    "encode",
]

NETWORKS = ("text_encoder", "image_encoder", "encoder", "decoder", "generator")


class Networks(nn.Module):
    """The networks of one model, those that its weights file holds."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = TextEncoder(config.text)
        self.image_encoder = ImageEncoder(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.generator = Generator(config)

    def set_trunk_dtype(self, dtype: torch.dtype) -> None:
        """The dtype in which the networks' trunks compute: bfloat16 in training, float32 for exact pictures."""
        for network in self.children():
            network.trunk_dtype = dtype  # pyright: ignore[reportArgumentType]

    def parameter_count(self) -> dict[str, int]:
        """Parameters of each network."""
        return {
            name: sum(p.numel() for p in net.parameters()) for name, net in self.named_children()
        }


def build(config: ModelConfig, device: str | torch.device = "cpu") -> Networks:
    """Fresh networks on a device; on "meta" they hold names and shapes and no memory."""
    with torch.device(device):
        return Networks(config)


def encode(encoder: TextEncoder, tokens: Tensor, mask: Tensor) -> TextEncoding:
    """`TextEncoding` of tokens (b, t); columns that are padding in every row are cut first, which changes nothing."""
    longest = int(mask.sum(1).max())
    return encoder(tokens[:, :longest], mask[:, :longest])
