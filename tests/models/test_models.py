"""Shapes, sizes, and what the pieces that all networks share promise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from t2i_cli.config import PRESETS, RESOLUTIONS, Attribute, model_config
from t2i_cli.models import NETWORKS, Discriminator, PatchDiscriminator, TextEncoding, build, encode
from t2i_cli.models.layers import attend, channel_norm, level_features, patchify, unpatchify
from tests.toys import awaken, toy_networks, toy_tokenizer


def encoding(networks, texts: list[str]) -> TextEncoding:
    tokens, mask = toy_tokenizer().batch(texts, 16)
    return networks.text_encoder(torch.from_numpy(tokens), torch.from_numpy(mask))


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("size", list(PRESETS))
def test_every_preset_is_consistent(size: str, resolution: int) -> None:
    style = Attribute("style", ("bold", "light"))
    config = model_config(size, resolution, attributes=(style,))
    networks = build(config, "meta")
    b, c, n, r = 2, config.latent_channels, config.cells, resolution
    assert n == (16 if resolution == 256 else 8)
    tokens = torch.zeros(b, 5, dtype=torch.int64, device="meta")
    text = networks.text_encoder(tokens, torch.ones(b, 5, dtype=torch.bool, device="meta"))
    images = torch.empty(b, 4, r, r, device="meta")
    latents = networks.encoder(images)
    assert latents.shape == (b, c, n, n)
    drawn = networks.decoder(latents)
    assert drawn.shape == images.shape
    assert networks.image_encoder(images).shape == text.text_features.shape == (b, config.text.dim)
    generator, kinds = networks.generator, torch.zeros(b, 1, dtype=torch.int64, device="meta")
    read = generator.read(torch.empty(b, 3, c, n, n, device="meta"), kinds[:, None].expand(b, 3, 1))
    condition = generator.condition(text, tokens, kinds)
    level = torch.empty(b, device="meta")
    assert generator(latents, level, condition, read).shape == latents.shape
    with torch.device("meta"):
        patches, whole = PatchDiscriminator(), Discriminator(config)
    assert patches(images, images[:, :3]).shape == (b, 1, r // 4, r // 4)
    judged = whole(images)
    assert whole.logits(judged.features, text.text_features).shape == (b,)


def test_presets_grow() -> None:
    counts = [build(model_config(size, 64), "meta").parameter_count() for size in PRESETS]
    assert all(set(count) == set(NETWORKS) for count in counts)
    for name in NETWORKS:
        of_network = [count[name] for count in counts]
        assert of_network == sorted(set(of_network)), name
    for count, wanted in zip(counts, (4e6, 16e6, 36e6, 110e6), strict=True):
        assert 0.6 * wanted < count["generator"] < 1.6 * wanted


def test_the_networks_of_a_model_are_those_of_its_weights_file() -> None:
    networks = toy_networks()
    assert tuple(name for name, _ in networks.named_children()) == NETWORKS
    networks.set_trunk_dtype(torch.bfloat16)
    assert all(network.trunk_dtype == torch.bfloat16 for network in networks.children())
    assert all(value.dtype == torch.float32 for value in networks.state_dict().values())


def test_patchify_and_unpatchify_are_inverse_and_channels_last() -> None:
    images = torch.randn(2, 4, 16, 16)
    patches = patchify(images, 4)
    assert patches.shape == (2, 64, 4, 4)
    assert patches.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unpatchify(patches, 4), images)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(patchify(last, 4), patches)
    # one cell holds one block of pixels and nothing else
    assert torch.equal(
        patches[0, :, 1, 2].sort().values, images[0, :, 4:8, 8:12].flatten().sort().values
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
    networks = toy_networks(kind)
    awaken(networks)
    tokens, mask = (
        torch.from_numpy(part) for part in toy_tokenizer().batch(["a red ball", "ball"], 16)
    )
    whole = networks.text_encoder(tokens, mask)
    cut = encode(networks.text_encoder, tokens, mask)
    assert cut.text_embeds.shape[1] < whole.text_embeds.shape[1]
    assert torch.allclose(whole.text_features, cut.text_features, atol=1e-6)
    assert torch.allclose(whole.text_features.norm(dim=1), torch.ones(2), atol=1e-5)
    alone = networks.text_encoder(tokens[1:], mask[1:])
    assert torch.allclose(alone.text_features, whole.text_features[1:], atol=1e-6)


def test_word_order_counts() -> None:
    networks = toy_networks()
    awaken(networks)
    features = encoding(networks, ["red ball blue bar", "blue ball red bar"]).text_features
    assert float((features[0] - features[1]).detach().norm()) > 1e-3


def test_image_features_have_unit_norm_and_do_not_hang_on_the_batch() -> None:
    networks = toy_networks()
    awaken(networks)
    images = torch.rand(3, 4, 32, 32) * 2 - 1
    features = networks.image_encoder(images)
    assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(networks.image_encoder(images[1:2]), features[1:2], atol=1e-6)
    assert float((features[0] - features[1]).detach().norm()) > 1e-3
    maps = networks.image_encoder.feature_maps(images)
    assert [tuple(x.shape) for x in maps] == [(3, 24, 16, 16), (3, 32, 8, 8)]


def test_the_discriminator_ignores_the_text_in_its_trunk_and_not_in_its_head() -> None:
    networks = toy_networks()
    discriminator = Discriminator(networks.config)
    awaken(networks, discriminator)
    judged = discriminator(torch.randn(2, 4, 32, 32))
    assert torch.allclose(judged.image_features.norm(dim=1), torch.ones(2), atol=1e-5)
    text = encoding(networks, ["a red ball", "a blue bar"]).text_features
    straight = discriminator.logits(judged.features, text)
    crossed = discriminator.logits(judged.features, text.flip(0))
    assert not torch.allclose(straight, crossed)
    # one row's logit does not depend on the other rows
    alone = discriminator.logits(judged.features[:1], text[:1])
    assert torch.allclose(alone, straight[:1], atol=1e-6)


def test_the_discriminator_starts_from_the_image_encoder() -> None:
    networks = toy_networks()
    discriminator = Discriminator(networks.config)
    assert not torch.equal(discriminator.conv_in.weight, networks.image_encoder.conv_in.weight)
    discriminator.start_from(networks.image_encoder)
    for name in ("conv_in", "levels", "widen"):
        mine, its = (getattr(x, name).state_dict() for x in (discriminator, networks.image_encoder))
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine)
