"""Toy models and pictures: small enough that a test can train them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch

from t2i_cli.config import PRESETS, ModelConfig, TextEncoderConfig, TrainConfig
from t2i_cli.models import Networks, build
from t2i_cli.tokenizer import Tokenizer, train_tokenizer
from t2i_cli.training.batches import Batches
from t2i_cli.training.stages import Learner

# the tiny preset, made smaller still
MICRO = dataclasses.replace(
    PRESETS["tiny"],
    channels={16: 32, 8: 32},
    image_encoder_channels={16: 8, 8: 16},
    blocks=1,
    text_dim=16,
    text_depth=1,
)
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (40, 60, 220),
    "yellow": (240, 210, 40),
}
SHAPES = ("square", "ball", "bar", "cross")


@dataclass
class Toys:
    """Sixteen pictures of one coloured shape each: what `Pictures` asks for."""

    channels: int = 4
    resolution: int = 32
    pixels: np.ndarray = field(init=False)
    captions: list[list[str]] = field(init=False)

    def __post_init__(self) -> None:
        """Draw them."""
        side = np.arange(self.resolution) / self.resolution - 0.5
        x, y = np.meshgrid(side, side)
        masks = {
            "square": (abs(x) < 0.3) & (abs(y) < 0.3),
            "ball": x**2 + y**2 < 0.12,
            "bar": abs(y) < 0.15,
            "cross": (abs(x) < 0.1) | (abs(y) < 0.1),
        }
        self.captions, drawn = [], []
        for colour, rgb in COLOURS.items():
            for shape in SHAPES:
                mask = masks[shape]
                picture = np.zeros((self.resolution, self.resolution, 4), np.uint8)
                picture[mask] = (*rgb, 255)
                if self.channels == 3:
                    picture[~mask] = 255
                drawn.append(picture[..., : self.channels])
                self.captions.append([f"a {colour} {shape}", f"{shape}, {colour}"])
        self.pixels = np.stack(drawn)


def toy_config(channels: int = 4, kind: str = "transformer", vocab_size: int = 400) -> ModelConfig:
    """A model of a few ten thousand parameters at 32 px."""
    return ModelConfig(
        size="custom",
        resolution=32,
        image_channels=channels,
        fold=4,
        channels=(32, 48),
        blocks=1,
        text_attention=(8, 4),
        self_attention=(4,),
        head_dim=16,
        image_encoder_channels=(24, 32),
        text=TextEncoderConfig(
            "lstm" if kind == "lstm" else "transformer", vocab_size, 16, 32, 1, 2
        ),
    )


def toy_tokenizer() -> Tokenizer:
    """A tokenizer of the toys' captions."""
    return train_tokenizer([text for row in Toys().captions for text in row], 400)


def toy_networks(channels: int = 4, kind: str = "transformer", seed: int = 0) -> Networks:
    """Seeded toy networks, with a discriminator."""
    torch.manual_seed(seed)
    return build(toy_config(channels, kind, toy_tokenizer().vocab_size), discriminator=True)


def toy_learner(
    config: TrainConfig | None = None, channels: int = 4, kind: str = "transformer"
) -> tuple[Learner, Batches]:
    """A learner and its batches; pictures as they are, no augmentation unless the config says so."""
    config = config or TrainConfig(augment=0.0, recolour=0.0, mirror=0.0, caption_dropout=0.0)
    batches = Batches(
        Toys(channels),
        np.arange(16),
        toy_tokenizer(),
        context_length=16,
        seed=config.seed,
        device=torch.device("cpu"),
        recolour=config.recolour,
        mirror=config.mirror,
    )
    return Learner(toy_networks(channels, kind), config, batches.tokens([""])), batches
