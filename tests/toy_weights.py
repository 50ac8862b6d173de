"""A toy model in a weights file: random weights, nothing at zero, so that every path of the graph counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from t2i_cli import models
from t2i_cli.checkpoint import save_model
from t2i_cli.config import Attribute, ModelConfig
from t2i_cli.pixels import as_images
from t2i_cli.references import ReferenceStore, quantised_keys, quantised_latents
from t2i_cli.training.vocabulary import words_of
from t2i_cli.words import Words
from tests.toys import STYLE, Toys, awaken, toy_config, toy_tokenizer

ATTRIBUTES = (STYLE,)


def toy_words() -> Words:
    """Words of the toys' captions; crimson is read as red, an orb as a ball."""
    return words_of(Toys().captions, {"orb": "ball"})


def toy_store(networks: models.Networks) -> ReferenceStore:
    """The toys' pictures as the networks see them, found by their first captions."""
    toys, tokenizer, config = Toys(), toy_tokenizer(), networks.config
    tokens, mask = map(
        torch.from_numpy,
        tokenizer.batch([row[0] for row in toys.captions], config.text.context_length),
    )
    images = torch.from_numpy(as_images(toys.pixels))
    with torch.no_grad():
        latents = networks.encoder(images).numpy()
        features = networks.text_encoder(tokens, mask).text_features
        keys = F.normalize(networks.generator.whitened(features), dim=1).numpy()
    kinds = [
        [one.index(row.get(one.name, "")) for one in config.attributes] for row in toys.attributes
    ]
    return ReferenceStore(
        quantised_latents(latents),
        quantised_keys(keys),
        np.array(kinds, np.int16).reshape(len(toys.pixels), -1),
        np.arange(100, 100 + len(toys.pixels), dtype=np.int32),
    )


def save_toy(
    path: Path,
    *,
    opaque: bool = False,
    attributes: tuple[Attribute, ...] = ATTRIBUTES,
    references: bool = True,
    seed: int = 0,
    config: ModelConfig | None = None,
    title: str = "toy",
    stage: str = "",
) -> Path:
    """Write a model and return its path; another one's references only where it is at the toys' resolution."""
    tokenizer = toy_tokenizer()
    config = config or toy_config(
        vocab_size=tokenizer.vocab_size, opaque=opaque, attributes=attributes
    )
    torch.manual_seed(seed)
    networks = models.build(config).eval()
    awaken(networks)
    states = {name: network.state_dict() for name, network in networks.named_children()}
    fits = references and config.resolution == Toys().resolution
    save_model(
        path, states, config, tokenizer.to_bytes(), words=toy_words().to_bytes(), title=title, license="CC0-1.0",
        references=toy_store(networks) if fits else None, extra={"t2i.stage": stage} if stage else {},
    )  # fmt: skip
    return path
