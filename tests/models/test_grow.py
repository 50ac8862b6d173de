"""A model that has learned something begins a larger one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from t2i_cli.config import ModelConfig, TextEncoderConfig, model_config
from t2i_cli.errors import UsageError
from t2i_cli.models import TextEncoding, build, grow, one_step
from t2i_cli.models.grow import why_not

SMALL = ModelConfig(
    size="custom",
    resolution=32,
    fold=2,
    channels=(16, 32),
    blocks=1,
    text_attention=(16, 8),
    self_attention=(8,),
    head_dim=8,
    image_encoder_channels=(16, 24),
    text=TextEncoderConfig(vocab_size=64, context_length=8, dim=16, depth=1, heads=2),
)
TWICE = dataclasses.replace(
    SMALL,
    channels=(32, 64),
    blocks=2,
    head_dim=16,
    image_encoder_channels=(32, 48),
    text=dataclasses.replace(SMALL.text, depth=2),
)


def learned(config: ModelConfig):
    """Networks in which nothing is zero any more."""
    torch.manual_seed(1)
    networks = build(config)
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return networks


def outputs(networks) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    tokens = torch.randint(4, 64, (3, 6), generator=random)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] * 5 + [False]])
    noise = torch.randn(3, 4, 32, 32, generator=random)
    with torch.no_grad():
        text: TextEncoding = networks.text_encoder(tokens, mask)
        level = torch.tensor([1.0, 0.5, 0.1])
        style = networks.generator.style(text.text_features)
        return {
            "text_features": text.text_features,
            "image_features": networks.image_encoder(noise),
            "one step": one_step(networks.generator, noise, text),
            "on the way": networks.generator(noise, level, text.text_embeds, text.mask, style),
        }


def test_a_network_twice_as_wide_and_deeper_begins_as_the_same_function() -> None:
    old, new = learned(SMALL), build(TWICE)
    grow(old, new)
    for name, wanted in outputs(old).items():
        torch.testing.assert_close(outputs(new)[name], wanted, rtol=1e-3, atol=2e-4, msg=name)


def test_copies_are_not_taught_the_same() -> None:
    new = build(TWICE)
    grow(learned(SMALL), new)
    conv = new.generator.down[0]["blocks"][0].conv_in  # type: ignore[index]
    tokens, mask = torch.full((2, 4), 5), torch.ones(2, 4, dtype=torch.bool)
    text = new.text_encoder(tokens, mask)
    one_step(new.generator, torch.randn(2, 4, 32, 32), text).square().sum().backward()
    weight, gradient = conv.weight, conv.weight.grad
    assert torch.equal(weight[0].sum(0), weight[16].sum(0)) is False  # they read other shares
    assert not torch.allclose(gradient[0], gradient[16], rtol=0.05)


def test_the_same_seed_grows_the_same_and_another_does_not() -> None:
    first, second, third = build(TWICE), build(TWICE), build(TWICE)
    old = learned(SMALL)
    grow(old, first, seed=3)
    grow(old, second, seed=3)
    grow(old, third, seed=4)
    name = "generator.up.0.blocks.0.conv_in.weight"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], third.state_dict()[name])


def test_tiny_grows_into_small_and_what_cannot_grow_is_refused() -> None:
    tiny, small, base = (model_config(size, 64) for size in ("tiny", "small", "base"))
    assert why_not(tiny, small) == ""
    assert "text encoder" in why_not(tiny, base)
    assert why_not(small, tiny)
    lstms = [model_config(size, 64, text_kind="lstm") for size in ("tiny", "small")]
    assert "LSTM" in why_not(*lstms)  # what a fresh layer makes of its input is another function
    assert "pictures" in why_not(tiny, model_config("small", 128))
    with pytest.raises(UsageError, match="cannot grow"):
        grow(build(tiny, "meta"), build(base, "meta"))
