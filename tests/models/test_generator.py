"""The generator: what it reads, what it must not read, and that rows do not know of each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from t2i_cli.config import Attribute
from t2i_cli.models import Generator, ReadReferences, TextEncoding
from t2i_cli.models.text_encoder import TextEncoder
from tests.toys import STYLE, awaken, toy_config, toy_tokenizer

SEASON = Attribute("season", ("summer", "winter"))
B, C, N, K = 3, 16, 8, 3


class Asked:
    """Three rows: latents, texts, attributes and references, and a generator in which every path counts."""

    def __init__(self, attributes: tuple[Attribute, ...] = (STYLE, SEASON)) -> None:
        torch.manual_seed(0)
        tokenizer = toy_tokenizer()
        config = toy_config(vocab_size=tokenizer.vocab_size, attributes=attributes)
        self.generator = Generator(config).eval().requires_grad_(False)
        encoder = TextEncoder(config.text).requires_grad_(False)
        awaken(self.generator, encoder)
        texts = ["a red ball", "a blue bar", "cross, yellow"]
        tokens, mask = tokenizer.batch(texts, 16)
        self.tokens, mask = torch.from_numpy(tokens), torch.from_numpy(mask)
        self.text: TextEncoding = encoder(self.tokens, mask)
        a = len(attributes)
        self.attributes = torch.tensor([[0, 1], [1, 0], [2, 2]])[:, :a]
        self.references = torch.randn(B, K, C, N, N)
        self.kinds = torch.randint(0, 3, (B, K, a))
        self.noisy, self.level = torch.randn(B, C, N, N), torch.tensor([0.2, 0.7, 1.0])

    def condition(self, **more: torch.Tensor) -> torch.Tensor:
        return self.generator.condition(self.text, self.tokens, self.attributes, **more)

    def read(self, without: torch.Tensor | None = None) -> ReadReferences:
        return self.generator.read(self.references, self.kinds, without)

    def velocity(self, **changed) -> torch.Tensor:
        given = {
            "noisy": self.noisy,
            "level": self.level,
            "condition": self.condition(),
            "references": self.read(),
        }
        return self.generator(**{**given, **changed})


@pytest.fixture
def asked() -> Asked:
    return Asked()


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """The least difference that any row makes."""
    return float((a - b).abs().flatten(1).max(1).values.min())


def test_a_fresh_generator_says_nothing_yet() -> None:
    torch.manual_seed(0)
    generator = Generator(toy_config()).requires_grad_(False)
    references = generator.read(torch.randn(2, K, C, N, N), torch.zeros(2, K, 0, dtype=torch.int64))
    condition = generator.null_condition(torch.zeros(2, 0, dtype=torch.int64))
    velocity = generator(torch.randn(2, C, N, N), torch.rand(2), condition, references)
    assert velocity.shape == (2, C, N, N)
    assert float(velocity.abs().max()) == 0
    assert float(references.mean.abs().max()) > 0


def test_rows_are_independent(asked: Asked) -> None:
    together, condition, read = asked.velocity(), asked.condition(), asked.read()
    for row in range(B):
        rows = slice(row, row + 1)
        alone = asked.generator(
            asked.noisy[rows],
            asked.level[rows],
            asked.generator.condition(asked.text[rows], asked.tokens[rows], asked.attributes[rows]),
            asked.generator.read(asked.references[rows], asked.kinds[rows]),
        )
        torch.testing.assert_close(alone, together[rows], rtol=1e-4, atol=1e-5)
        picked = asked.generator(
            asked.noisy[rows], asked.level[rows], condition[rows], read[rows]
        )  # what was read of a batch can be taken apart
        torch.testing.assert_close(picked, together[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "part", ["noisy", "level", "text", "tokens", "attributes", "references", "kinds"]
)
def test_everything_that_is_asked_for_changes_what_is_drawn(asked: Asked, part: str) -> None:
    plain = asked.velocity()
    if part == "text":
        features = asked.text.text_features.roll(1, 0)
        asked.text = dataclasses.replace(asked.text, text_features=features)
    elif part == "tokens":  # rows have other lengths: the mask goes with them
        asked.tokens = asked.tokens.roll(1, 0)
        asked.text = dataclasses.replace(asked.text, mask=asked.text.mask.roll(1, 0))
    elif part in ("attributes", "kinds"):
        setattr(asked, part, (getattr(asked, part) + 1) % 3)
    else:
        setattr(asked, part, getattr(asked, part).roll(1, 0))
    assert far(asked.velocity(), plain) > 1e-4


def test_each_attribute_counts_on_its_own(asked: Asked) -> None:
    plain = asked.condition()
    for column in range(2):
        changed = asked.attributes.clone()
        changed[:, column] = (changed[:, column] + 1) % 3
        other = asked.generator.condition(asked.text, asked.tokens, changed)
        assert far(other, plain) > 1e-3


def test_tokens_under_the_mask_say_nothing(asked: Asked) -> None:
    plain = asked.condition()
    padded = torch.where(asked.text.mask, asked.tokens, torch.full_like(asked.tokens, 7))
    assert not torch.equal(padded, asked.tokens)
    other = asked.generator.condition(asked.text, padded, asked.attributes)
    assert torch.equal(other, plain)


def test_a_dropped_caption_is_the_null_condition(asked: Asked) -> None:
    dropped = torch.tensor([True, False, True])
    condition = asked.condition(without_text=dropped)
    null = asked.generator.null_condition(asked.attributes)
    assert torch.equal(condition[dropped], null[dropped])
    assert torch.equal(condition[~dropped], asked.condition()[~dropped])
    assert far(asked.condition(), null) > 1e-3
    none = asked.generator.null_condition(torch.full_like(asked.attributes, 2))
    assert not torch.equal(none[:1], null[:1])  # attributes are asked for without a text too


def test_the_null_condition_does_not_hang_on_the_text(asked: Asked) -> None:
    dropped = torch.ones(B, dtype=torch.bool)
    first = asked.condition(without_text=dropped)
    asked.text = dataclasses.replace(asked.text, text_features=asked.text.text_features.flip(0))
    asked.tokens = asked.tokens.flip(0)
    assert torch.equal(asked.condition(without_text=dropped), first)


def test_rows_without_references_are_those_that_read_none(asked: Asked) -> None:
    without = torch.tensor([False, True, True])
    mixed = asked.velocity(references=asked.read(without))
    none = asked.velocity(references=asked.generator.no_references(B))
    torch.testing.assert_close(mixed[without], none[without], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[:1], asked.velocity()[:1], rtol=1e-4, atol=1e-5)
    assert far(asked.velocity(), none) > 1e-3


def test_rows_without_references_know_nothing_of_them(asked: Asked) -> None:
    without = torch.ones(B, dtype=torch.bool)
    read = asked.read(without)
    asked.references = torch.randn(B, K, C, N, N) * 9
    again = asked.read(without)
    for name in ("fine", "coarse", "mean"):
        assert torch.equal(getattr(read, name), getattr(again, name)), name


def test_what_is_read_off_references_has_the_shapes_that_it_says(asked: Asked) -> None:
    fine, coarse = asked.generator.config.channels
    read = asked.read()
    assert read.fine.shape == (B, 1 + K * N * N, fine)
    assert read.coarse.shape == (B, 1 + K * N * N // 4, coarse)
    assert read.mean.shape == (B, fine, N, N)
    none = asked.generator.no_references(B)
    assert none.fine.shape == (B, 1, fine)
    assert none.coarse.shape == (B, 1, coarse)
    assert none.mean.shape == read.mean.shape
    assert float(none.mean.abs().max()) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_references_in_any_order(asked: Asked, count: int) -> None:
    asked.references = torch.randn(B, count, C, N, N)
    asked.kinds = torch.randint(0, 3, (B, count, 2))
    forward = asked.velocity()
    order = torch.arange(count).flip(0)
    asked.references, asked.kinds = asked.references[:, order], asked.kinds[:, order]
    torch.testing.assert_close(asked.velocity(), forward, rtol=1e-4, atol=1e-5)


def test_a_picture_read_twice_has_the_mean_of_one(asked: Asked) -> None:
    one = asked.generator.read(asked.references[:, :1], asked.kinds[:, :1])
    two = asked.generator.read(
        asked.references[:, :1].repeat(1, 2, 1, 1, 1), asked.kinds[:, :1].repeat(1, 2, 1)
    )
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-4, atol=1e-5)


def test_without_attributes_there_is_nothing_to_ask_for_but_the_text() -> None:
    asked = Asked(())
    assert asked.attributes.shape == (B, 0)
    assert far(asked.velocity(), asked.velocity(condition=asked.condition().roll(1, 0))) > 1e-4
    null = asked.generator.null_condition(asked.attributes)
    assert torch.equal(null, asked.generator.null.expand(B, -1))


def test_bf16_is_near_fp32_and_gives_fp32(asked: Asked) -> None:
    exact = asked.velocity()
    asked.generator.trunk_dtype = torch.bfloat16
    rough = asked.velocity()
    assert asked.read().fine.dtype == asked.generator.no_references(B).fine.dtype == torch.bfloat16
    assert rough.dtype == torch.float32
    assert float((rough - exact).norm() / exact.norm()) < 0.05


def test_every_parameter_is_trained(asked: Asked) -> None:
    asked.generator.requires_grad_(requires_grad=True)
    dropped = torch.tensor([False, False, True])
    velocity = asked.velocity(
        condition=asked.condition(without_text=dropped), references=asked.read(dropped)
    )
    velocity.square().mean().backward()
    for name, parameter in asked.generator.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def features(rows: int, dim: int = 32) -> torch.Tensor:
    """Text features of unit norm in a narrow cone, as those of real captions are."""
    random = np.random.default_rng(3)
    spread = 0.9 ** np.arange(dim)
    values = random.normal(size=(rows, dim)) * spread + 2 * random.normal(size=dim)
    return torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float32), dim=1)


def test_whitening_gives_unit_variance_and_no_mean() -> None:
    generator = Generator(toy_config())
    told = features(4000)
    generator.whiten(told, share=0.0)
    white = generator.whitened(told).double()
    assert float(white.mean(0).abs().max()) < 1e-3
    torch.testing.assert_close(
        torch.cov(white.T), torch.eye(32, dtype=torch.float64), rtol=0, atol=0.02
    )


def test_faint_directions_are_not_blown_up() -> None:
    """Eigenvalues l become l / (l + 0.1 mean): one for what is common, little for what is faint."""
    generator = Generator(toy_config())
    told = features(4000)
    generator.whiten(told)
    values, vectors = torch.linalg.eigh(torch.cov(told.double().T))
    along = torch.cov(((generator.whitened(told).double()) @ vectors).T).diagonal()
    expected = values / (values + 0.1 * values.mean())
    torch.testing.assert_close(along, expected, rtol=1e-3, atol=1e-4)
    assert float(expected.min()) < 0.5 < 0.95 < float(expected.max())


@pytest.mark.parametrize("rows", [1, 2])
def test_whitening_of_hardly_any_caption_is_finite(rows: int) -> None:
    generator = Generator(toy_config())
    told = features(2)[:1].expand(rows, -1)
    generator.whiten(told)
    assert bool(torch.isfinite(generator.text_whiten).all())
    assert float(generator.whitened(told).abs().max()) < 1e-2


def test_an_unwhitened_generator_keeps_directions() -> None:
    generator = Generator(toy_config())
    told = features(5)
    torch.testing.assert_close(generator.whitened(told), told * 32**0.5)


def test_whitening_travels_with_the_weights() -> None:
    one, other = Generator(toy_config()), Generator(toy_config())
    told = features(100)
    one.whiten(told)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.whitened(told), other.whitened(told))
