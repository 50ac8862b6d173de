"""A toy model in a weights file: random weights, nothing at zero, so that every path of the graph counts."""

import torch

from t2i_cli import models
from t2i_cli.checkpoint import save_model
from t2i_cli.config import ModelConfig
from t2i_cli.training.vocabulary import words_of
from tests.toys import Toys, awaken, toy_config, toy_tokenizer


def toy_words():
    """Words of the toys' captions; crimson is read as red, an orb as a ball."""
    return words_of(Toys().captions, {"orb": "ball"})


def save_toy(
    path, *, opaque=False, attributes=(), seed=0, config: ModelConfig | None = None, title="toy", stage=""
):  # fmt: skip
    """Write a model and return its path."""
    tokenizer = toy_tokenizer()
    config = config or toy_config(
        vocab_size=tokenizer.vocab_size, opaque=opaque, attributes=attributes
    )
    torch.manual_seed(seed)
    networks = models.build(config)
    awaken(networks)
    states = {name: network.state_dict() for name, network in networks.named_children()}
    extra = {"t2i.stage": stage} if stage else {}
    save_model(
        path, states, config, tokenizer.to_bytes(), words=toy_words().to_bytes(), title=title, license="CC0-1.0",
        extra=extra,
    )  # fmt: skip
    return path
