"""Shapes, ranges, and what each network must and must not see."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from t2i_cli.config import PRESETS, RESOLUTIONS, model_config
from t2i_cli.models import TextEncoding, build, encode, many_steps, one_step
from t2i_cli.models.layers import attend, channel_norm, fold, level_features, unfold
from tests.toys import toy_networks, toy_tokenizer


def encoding(networks, texts: list[str]) -> TextEncoding:
    tokens, mask = toy_tokenizer().batch(texts, 16)
    return networks.text_encoder(torch.from_numpy(tokens), torch.from_numpy(mask))


def awake(networks) -> None:
    """Give the layers that start at zero something to say."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in networks.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.05, generator=generator)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("size", list(PRESETS))
def test_every_preset_is_consistent(size: str, resolution: int) -> None:
    networks = build(model_config(size, resolution), "meta", discriminator=True)
    b, r = 2, resolution
    text = networks.text_encoder(
        torch.zeros(b, 5, dtype=torch.int64, device="meta"),
        torch.ones(b, 5, dtype=torch.bool, device="meta"),
    )
    noise = torch.empty(b, 4, r, r, device="meta")
    assert one_step(networks.generator, noise, text).shape == (b, 4, r, r)
    judged = networks.discriminator(noise)
    assert networks.discriminator.logits(judged.features, text.text_features).shape == (b,)
    assert networks.image_encoder(noise).shape == text.text_features.shape


def test_presets_grow() -> None:
    counts = [
        build(model_config(size, 64), "meta").parameter_count()["generator"] for size in PRESETS
    ]
    assert counts == sorted(counts)
    for count, wanted in zip(counts, (2e6, 8e6, 25e6, 80e6), strict=True):
        assert 0.6 * wanted < count < 1.6 * wanted


def test_fold_and_unfold_are_inverse_and_channels_last() -> None:
    images = torch.randn(2, 4, 16, 16)
    folded = fold(images, 4)
    assert folded.shape == (2, 64, 4, 4)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold(folded, 4), images)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(fold(last, 4), folded)
    # one cell holds one block of pixels and nothing else
    assert torch.equal(
        folded[0, :, 1, 2].sort().values, images[0, :, 4:8, 8:12].flatten().sort().values
    )


def test_attend_is_torchs_own_attention() -> None:
    q, k, v = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
    assert torch.allclose(attend(q, k, v, mask), expected, atol=1e-6)
    assert torch.allclose(attend(q, k, v), F.scaled_dot_product_attention(q, k, v), atol=1e-6)


def test_channel_norm_is_a_layer_norm_over_channels() -> None:
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    assert torch.allclose(channel_norm(x), (x - mean) / (variance + 1e-5).sqrt())


def test_level_features_tell_levels_apart() -> None:
    features = level_features(torch.linspace(0, 1, 101), 64)
    assert features.shape == (101, 64)
    assert float(torch.pdist(features).min()) > 0.1


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_padding_changes_nothing(kind: str) -> None:
    networks = toy_networks(kind=kind)
    awake(networks)
    tokens, mask = (
        torch.from_numpy(part) for part in toy_tokenizer().batch(["a red ball", "ball"], 16)
    )
    whole = networks.text_encoder(tokens, mask)
    cut = encode(networks.text_encoder, tokens, mask)
    assert torch.allclose(whole.text_features, cut.text_features, atol=1e-6)
    assert torch.allclose(whole.text_features.norm(dim=1), torch.ones(2), atol=1e-5)
    alone = networks.text_encoder(tokens[1:], mask[1:])
    assert torch.allclose(alone.text_features, whole.text_features[1:], atol=1e-6)


def test_word_order_counts() -> None:
    networks = toy_networks()
    awake(networks)
    features = encoding(networks, ["red ball blue bar", "blue ball red bar"]).text_features
    assert float((features[0] - features[1]).detach().norm()) > 1e-3


def test_the_generator_reads_the_text_by_both_ways() -> None:
    networks = toy_networks()
    awake(networks)
    noise = torch.randn(1, 4, 32, 32)
    a, b = encoding(networks, ["a red ball"]), encoding(networks, ["a blue bar"])
    as_a = one_step(networks.generator, noise, a)
    assert not torch.allclose(as_a, one_step(networks.generator, noise, b))
    only_tokens = dataclasses.replace(b, text_features=a.text_features)
    only_style = dataclasses.replace(a, text_features=b.text_features)
    assert not torch.allclose(as_a, one_step(networks.generator, noise, only_tokens))
    assert not torch.allclose(as_a, one_step(networks.generator, noise, only_style))


def test_guidance_one_is_no_guidance_and_more_is_more() -> None:
    networks = toy_networks()
    awake(networks)
    noise = torch.randn(2, 4, 32, 32)
    text, null = encoding(networks, ["a red ball", "a bar"]), encoding(networks, ["", ""])
    plain = one_step(networks.generator, noise, text)
    assert torch.equal(plain, one_step(networks.generator, noise, text, null, 1.0))
    strong = one_step(networks.generator, noise, text, null, 3.0)
    assert not torch.allclose(plain, strong)
    itself = one_step(
        networks.generator, noise, text, text, 3.0
    )  # its own negative: nothing to push away from
    assert torch.allclose(plain, itself, atol=1e-5)


def test_a_clean_picture_is_left_alone_and_one_step_has_no_noise_in_it() -> None:
    networks = toy_networks()  # as built: F is zero
    x, text = torch.randn(2, 4, 32, 32), encoding(networks, ["a red ball", "a bar"])
    style = networks.generator.style(text.text_features)
    clean = networks.generator(x, torch.zeros(2), text.text_embeds, text.mask, style)
    assert torch.allclose(clean, x, atol=1e-5)
    assert float(one_step(networks.generator, x, text).detach().abs().max()) == 0.0


def test_many_steps_follow_the_flow_of_a_point() -> None:
    """Where the denoised picture is one constant, every number of steps ends there."""
    networks = toy_networks()
    text = encoding(networks, ["a red ball"])
    target = torch.full((1, 4, 32, 32), 0.3)
    networks.generator.forward = lambda *_: target  # type: ignore[method-assign]
    for steps in (1, 4, 20):
        drawn = many_steps(networks.generator, torch.randn(1, 4, 32, 32), text, steps=steps)
        assert torch.allclose(drawn, target, atol=1e-5)


def test_guidance_is_left_out_at_low_noise_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = toy_networks()
    awake(networks)
    text, null = encoding(networks, ["a red ball"]), encoding(networks, [""])
    seen: list[float] = []
    forward = networks.generator.forward

    def counted(noisy: torch.Tensor, level: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(float(level))
        return forward(noisy, level, *rest)

    monkeypatch.setattr(networks.generator, "forward", counted)
    noise = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        guided = many_steps(networks.generator, noise, text, null, 4, 2.0)
        assert seen == pytest.approx([1, 1, 0.818, 0.818, 0.6, 0.6, 0.333], abs=1e-3)
        seen.clear()
        plain = many_steps(networks.generator, noise, text, null, 4, 1.0)
    assert len(seen) == 4
    assert float((guided - plain).abs().max()) > 0.01


def test_bf16_is_near_fp32() -> None:
    networks = toy_networks()
    awake(networks)
    noise, text = torch.randn(2, 4, 32, 32), encoding(networks, ["a red ball", "a bar"])
    exact = one_step(networks.generator, noise, text)
    networks.set_trunk_dtype(torch.bfloat16)
    rough = one_step(networks.generator, noise, encoding(networks, ["a red ball", "a bar"]))
    assert rough.dtype == torch.float32
    assert float((exact - rough).detach().norm() / exact.detach().norm()) < 0.05


def test_the_discriminator_ignores_the_text_in_its_trunk_and_not_in_its_head() -> None:
    networks = toy_networks()
    awake(networks)
    features = networks.discriminator(torch.randn(2, 4, 32, 32)).features
    text = encoding(networks, ["a red ball", "a blue bar"]).text_features
    straight = networks.discriminator.logits(features, text)
    crossed = networks.discriminator.logits(features, text.flip(0))
    assert not torch.allclose(straight, crossed)
    # one row's logit does not depend on the other rows
    assert torch.allclose(
        networks.discriminator.logits(features[:1], text[:1]), straight[:1], atol=1e-6
    )
