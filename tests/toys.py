"""Toy models and pictures: small enough that a test can train them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from t2i_cli.config import PRESETS, Attribute, ModelConfig, TextEncoderConfig, TrainConfig
from t2i_cli.models import Networks, build
from t2i_cli.tokenizer import Tokenizer, train_tokenizer
from t2i_cli.training.batches import Batches
from t2i_cli.training.stages import STAGES, Material, Stage

# the tiny preset, made smaller still
MICRO = dataclasses.replace(
    PRESETS["tiny"],
    encoder_channels={16: 16, 8: 24},
    decoder_channels={8: 24, 16: 16, 32: 8},
    channels=(16, 32),
    blocks=1,
    head_dim=16,
    image_encoder_channels={16: 8, 8: 16},
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
STYLE = Attribute("style", ("bold", "light"))  # of the toys; one in eight has none


@dataclass
class Toys:
    """Sixteen pictures of one coloured shape each: what `Pictures` asks for."""

    channels: int = 4
    resolution: int = 32
    pixels: np.ndarray = field(init=False)
    captions: list[list[str]] = field(init=False)
    attributes: list[dict[str, str]] = field(init=False)

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
        self.captions, self.attributes, drawn = [], [], []
        for colour, rgb in COLOURS.items():
            for shape in SHAPES:
                mask = masks[shape]
                picture = np.zeros((self.resolution, self.resolution, 4), np.uint8)
                picture[mask] = (*rgb, 255)
                if self.channels == 3:
                    picture[~mask] = 255
                style = STYLE.values[len(drawn) % 2]
                self.attributes.append({} if len(drawn) % 8 == 7 else {"style": style})
                drawn.append(picture[..., : self.channels])
                self.captions.append([f"a {colour} {shape}", f"{shape}, {colour}"])
        self.pixels = np.stack(drawn)


def toy_config(
    kind: str = "transformer",
    vocab_size: int = 400,
    *,
    opaque: bool = False,
    attributes: tuple[Attribute, ...] = (),
) -> ModelConfig:
    """A model of a hundred thousand parameters at 32 px."""
    return ModelConfig(
        size="custom",
        resolution=32,
        opaque=opaque,
        patch=2,
        encoder_channels=(24, 32),
        decoder_channels=(32, 24),
        channels=(32, 48),
        blocks=1,
        head_dim=16,
        attributes=attributes,
        image_encoder_channels=(24, 32),
        text=TextEncoderConfig(
            "lstm" if kind == "lstm" else "transformer", vocab_size, 16, 32, 1, 2
        ),
    )


def toy_tokenizer() -> Tokenizer:
    """A tokenizer of the toys' captions."""
    return train_tokenizer([text for row in Toys().captions for text in row], 400)


def toy_networks(
    kind: str = "transformer", seed: int = 0, attributes: tuple[Attribute, ...] = ()
) -> Networks:
    """Seeded toy networks."""
    torch.manual_seed(seed)
    return build(toy_config(kind, toy_tokenizer().vocab_size, attributes=attributes))


def awaken(*networks: nn.Module) -> None:
    """Give what starts at zero something to say, so that every path of a network counts."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.05, generator=random)


def toy_batches(config: TrainConfig, indices: Sequence[int] = range(16), **more: Any) -> Batches:
    """Batches of the toys; pictures are changed as the config says."""
    return Batches(
        Toys(),
        np.array(indices, np.int64),
        toy_tokenizer(),
        context_length=16,
        seed=config.seed,
        device=torch.device("cpu"),
        recolour=config.recolour,
        mirror=config.mirror,
        **more,
    )


def toy_material(
    cache: Path,
    *,
    kind: str = "transformer",
    attributes: tuple[Attribute, ...] = (STYLE,),
    indices: Sequence[int] = range(16),
    digest: str = "toys",
    **options: Any,
) -> Material:
    """What a run gives to its stages; pictures as they are and 8 a step unless the options say otherwise."""
    settings: dict[str, Any] = {
        "augment": 0.0, "recolour": 0.0, "mirror": 0.0, "caption_dropout": 0.1, "batch_size": 8,
        "contrastive_batch_size": 8, "autoencoder_batch_size": 8, "precision": "fp32",
    }  # fmt: skip
    config = TrainConfig(**{**settings, **options})
    return Material(
        config=config,
        networks=toy_networks(kind, attributes=attributes),
        batches=toy_batches(config, indices),
        digest=digest,
        device=torch.device("cpu"),
        cache=cache,
    )


def toy_stage(name: str, material: Material) -> Stage:
    """A stage that is ready for its first step."""
    stage = STAGES[name](material)
    list(stage.prepare())
    return stage
