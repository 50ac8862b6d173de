"""Each stage really learns, each founding form trains, and what is not finite changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from t2i_cli.config import TrainConfig
from t2i_cli.models import many_steps, one_step
from t2i_cli.training import losses, stages
from t2i_cli.training.batches import Batch, Batches
from t2i_cli.training.ema import ema_decay, ema_update
from t2i_cli.training.stages import Learner
from tests.toys import toy_learner

PLAIN = {
    "augment": 0.0,
    "recolour": 0.0,
    "mirror": 0.0,
    "caption_dropout": 0.0,
    "ema_images": 200.0,
    "alignment_weight": 0.2,
    "discriminator_lr": 1.0,
    "adversarial_lr": 2e-4,
    "anchor_weight": 0.2,
}


def one_batch(batches: Batches) -> Batch:
    return batches.of(torch.arange(16).numpy())


def run(learner: Learner, batch: Batch, stage: str, steps: int) -> list[dict[str, float]]:
    learner.begin(stage)
    rows: list[dict[str, float]] = []
    for step in range(steps):
        result = learner.step(stage, batch, step, step / steps)
        assert not result.skipped
        rows.append({name: float(value) for name, value in result.figures.items()})
    return rows


@torch.no_grad()
def drawn(learner: Learner, batch: Batch) -> torch.Tensor:
    """Pictures for the batch's captions, in one step."""
    noise = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(9))
    return one_step(learner.average, noise, learner.encode(batch.tokens, batch.mask))


def distance(learner: Learner, batch: Batch) -> float:
    """Mean squared distance of drawn pictures to the pictures of their captions."""
    return float((drawn(learner, batch) - batch.images).square().mean())


@torch.no_grad()
def fit(learner: Learner, batch: Batch) -> float:
    """How much nearer drawn pictures are to their own caption than to others, in cosines."""
    features = learner.networks.image_encoder(drawn(learner, batch))
    cosines = features @ learner.encode(batch.tokens, batch.mask).text_features.T
    return float(cosines.diag().mean() - cosines.mean())


def test_one_batch_is_overfitted_through_every_stage() -> None:
    config = TrainConfig(**PLAIN, contrastive_lr=3e-3, flow_lr=1e-3)
    learner, batches = toy_learner(config)
    batch = one_batch(batches)
    rows = run(learner, batch, "contrastive", 80)
    assert rows[-1]["contrastive_loss"] < 0.5 < 2 < rows[0]["contrastive_loss"]
    before = distance(learner, batch)
    rows = run(learner, batch, "flow", 200)
    first, last = (sum(row["flow_loss"] for row in part) for part in (rows[:10], rows[-10:]))
    assert last < 0.5 * first
    assert distance(learner, batch) < 0.15 * before
    run(learner, batch, "adversarial", 40)
    assert distance(learner, batch) < 0.4 * before  # one step, still the right pictures
    assert fit(learner, batch) > 0.5


def test_one_step_learns_what_the_flow_draws_in_many() -> None:
    learner, batches = toy_learner(
        TrainConfig(**PLAIN, flow_lr=3e-3, distill_steps=3, distill_pairs=32)
    )
    batch = one_batch(batches)
    run(learner, batch, "flow", 60)
    rows = run(learner, batch, "distill", 150)
    assert [row["pairs"] for row in rows[:3]] == [16, 32, 32]  # no more than were asked for
    assert rows[-1]["distill_loss"] < 0.5 * rows[0]["distill_loss"]
    chunk = learner.pairs.pick(torch.Generator().manual_seed(0))
    text, noise = learner._told(chunk.position, chunk.tokens, chunk.mask, chunk.pictures.shape)
    with torch.no_grad():
        assert learner.anchor is not None
        many = many_steps(learner.anchor, noise, text, learner.null(16), 3, 2.5).clamp(-1, 1)
        blurred = one_step(learner.anchor, noise, text)
        once = one_step(learner.average, noise, text)
    assert (many - chunk.images()).abs().max() <= 0.0041  # half a pixel value
    nearer = (once - many).square().mean() / (blurred - many).square().mean()
    assert nearer < 0.5


def test_pairs_are_mirrored_whole_and_only_where_the_caption_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner, batches = toy_learner(TrainConfig(**{**PLAIN, "mirror": 1.0}, distill_steps=2))
    batch = one_batch(batches)
    run(learner, batch, "flow", 3)
    learner.begin("distill")
    sided = dataclasses.replace(batch, captions=["a ball on the left", *batch.captions[1:]])
    learner.make_pairs(0, sided)
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(stages, "one_step", lambda g, n, t: shown.append(n) or one_step(g, n, t))
    wanted: list[torch.Tensor] = []
    loss = losses.distill_loss
    monkeypatch.setattr(losses, "distill_loss", lambda d, t: wanted.append(t) or loss(d, t))
    learner.step("distill", sided, 1, 0.9)
    chunk = learner.pairs.pick(torch.Generator())
    _, noise = learner._told(chunk.position, chunk.tokens, chunk.mask, chunk.pictures.shape)
    for seen, whole in ((shown[0], noise), (wanted[0], chunk.images())):
        assert torch.equal(seen[0], whole[0])
        assert torch.equal(seen[1:], whole[1:].flip(3))


def test_pairs_are_drawn_again_from_their_positions_alone() -> None:
    config = TrainConfig(**{**PLAIN, "caption_dropout": 0.5}, distill_steps=2)
    learner, batches = toy_learner(config)
    batch = one_batch(batches)
    run(learner, batch, "flow", 3)
    learner.begin("distill")
    assert learner.make_pairs(4, batch)
    assert learner.make_pairs(9, batch)
    first = learner.pairs.pick(torch.Generator().manual_seed(0))
    assert learner.pairs.positions == [4, 9]
    other, _ = toy_learner(config)
    other.load_tensors(learner.tensors("distill"))
    other.make_pairs(first.position, batch)
    again = other.pairs.pick(torch.Generator())
    assert torch.equal(first.pictures, again.pictures)


def test_the_game_is_held_to_what_the_flow_drew() -> None:
    config = TrainConfig(**PLAIN, distill_steps=2, discriminator_head_start=0.0)
    learner, batches = toy_learner(config)
    batch = one_batch(batches)
    run(learner, batch, "flow", 3)
    flow = copy.deepcopy(learner.average)
    run(learner, batch, "distill", 4)
    learner.begin("adversarial")
    assert learner.pairs and learner.anchor is not None
    for mine, start in ((learner.anchor, flow), (learner.networks.generator, learner.average)):
        for a, b in zip(mine.parameters(), start.parameters(), strict=True):
            assert torch.equal(a, b)
    figures = learner.step("adversarial", batch, 5, 0.5).figures
    assert {"distill_loss", "spread_loss", "g_loss"} <= set(figures)
    assert "anchor_loss" not in figures
    learner.pairs.keep([])  # a game that no distill stage came before: it is held to its start
    assert "anchor_loss" in learner.step("adversarial", batch, 6, 0.5).figures


@pytest.mark.parametrize("setting", ["pairs_weight", "spread_weight"])
def test_the_game_keeps_to_the_pairs_and_to_their_spread(setting: str) -> None:
    """What G makes of the pairs' noises is nearer to the flow's pictures, or to being as far apart as they are."""
    off: list[float] = []
    for weight in (0.0, 20.0):
        weights = {
            "pattern_weight": 0.0,
            "edge_weight": 0.0,
            "pairs_weight": 0.0,
            "spread_weight": 0.0,
        }
        config = TrainConfig(
            **PLAIN, **{**weights, setting: weight},
            distill_steps=2, distill_pairs=16, discriminator_head_start=0.0,
        )  # fmt: skip
        learner, batches = toy_learner(config)
        batch = batches.get("distill", 0, 16)
        run(learner, batch, "flow", 20)
        run(learner, batch, "distill", 3)
        run(learner, batch, "adversarial", 25)
        chunk, encoder = learner.pairs.newest, learner.networks.image_encoder
        text, noise = learner._told(chunk.position, chunk.tokens, chunk.mask, chunk.pictures.shape)
        with torch.no_grad():
            drawn = one_step(learner.networks.generator, noise, text)
            maps = [encoder.feature_maps(images) for images in (drawn, chunk.images())]
            spread = losses.spread_loss(*maps)
            pixels = losses.distill_loss(drawn, chunk.images())
            off.append(float(spread if setting == "spread_weight" else pixels))
    without, with_ = off
    assert with_ < 0.7 * without


def test_a_teacher_that_is_not_finite_teaches_nothing() -> None:
    learner, batches = toy_learner(TrainConfig(**PLAIN, distill_steps=2))
    batch = one_batch(batches)
    run(learner, batch, "flow", 2)
    learner.begin("distill")
    assert learner.anchor is not None
    with torch.no_grad():
        next(learner.anchor.parameters()).fill_(math.nan)
    before = [p.clone() for p in learner.networks.generator.parameters()]
    assert learner.step("distill", batch, 0, 0.1).skipped
    assert len(learner.pairs) == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, learner.networks.generator.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("options", "kind", "channels"),
    [
        ({"flow": 0.0}, "transformer", 3),
        ({"flow": 0.0, "loss": "log"}, "transformer", 4),
        ({"flow": 0.0, "alignment": "squared", "discriminator_steps": 2}, "lstm", 4),
        ({"flow": 0.0, "penalty": "exact", "r2": False}, "transformer", 4),
        ({"flow": 0.0, "penalty_every": 4, "mismatch_weight": 0.0, "ema": False}, "transformer", 4),
    ],
)
def test_the_plain_gan_and_the_founding_forms_learn(
    options: dict, kind: str, channels: int
) -> None:
    """From nothing, the picture comes to follow the caption."""
    config = TrainConfig(
        **{
            **PLAIN,
            "adversarial_lr": 1e-3,
            "contrastive_lr": 3e-3,
            "alignment_weight": 1.0,
            **options,
        }
    )
    learner, batches = toy_learner(config, channels, kind)
    batch = one_batch(batches)
    run(learner, batch, "contrastive", 60)
    before = fit(learner, batch)
    rows = run(learner, batch, "adversarial", 80)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert fit(learner, batch) > before + 0.1


@pytest.mark.parametrize("stage", ["contrastive", "flow", "adversarial"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_reaches_no_weight(stage: str, poison: float) -> None:
    learner, batches = toy_learner(TrainConfig(**PLAIN))
    batch = one_batch(batches)
    learner.begin(stage)
    learner.step(stage, batch, 0, 0.5)
    before = {
        g: {n: t.clone() for n, t in group.items()} for g, group in learner.tensors(stage).items()
    }
    bad = Batch(batch.images.clone(), batch.tokens, batch.mask, batch.text, batch.captions)
    bad.images[3, 0, 5, 5] = poison
    result = learner.step(stage, bad, 1, 0.5)
    assert result.skipped
    after = learner.tensors(stage)
    for group, tensors in before.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, after[group][name]), (group, name)
    assert not learner.step(stage, batch, 2, 0.5).skipped


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["generator", "discriminator"])
def test_a_fault_in_one_half_step_of_the_game_undoes_the_other(
    first: bool, turns: int, poison: float, where: str
) -> None:
    """D has stepped when G's gradient is found not to be finite, or when D's own second step is."""
    learner, batches = toy_learner(TrainConfig(**PLAIN, discriminator_steps=turns))
    batch = one_batch(batches)
    learner.begin("adversarial")
    if not first:
        learner.step("adversarial", batch, 0, 0.5)
    before = {
        f"{group}.{name}": tensor.clone()
        for group, tensors in learner.tensors("adversarial").items()
        for name, tensor in tensors.items()
    }
    images, seen = learner.images, 0

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += 1
        return gradient * poison if where == "generator" or seen == turns else gradient

    parameter = next(getattr(learner.networks, where).parameters())
    hook = parameter.register_hook(spoil)
    assert learner.step("adversarial", batch, 1, 0.5).skipped
    assert seen
    hook.remove()
    after = {
        f"{group}.{name}": tensor
        for group, tensors in learner.tensors("adversarial").items()
        for name, tensor in tensors.items()
    }
    assert set(after) == set(before)  # no moments of a step that was not made
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert learner.images == images
    assert not learner.step("adversarial", batch, 2, 0.5).skipped


def test_the_discriminators_gradient_never_trains_the_text_encoder() -> None:
    learner, batches = toy_learner(TrainConfig(**PLAIN))
    batch = one_batch(batches)
    before = [p.clone() for p in learner.networks.text_encoder.parameters()]
    run(learner, batch, "flow", 2)
    run(learner, batch, "adversarial", 3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, learner.networks.text_encoder.parameters(), strict=True)
    )


def test_the_discriminator_starts_from_the_generators_way_down() -> None:
    learner, batches = toy_learner(TrainConfig(**PLAIN))
    run(learner, one_batch(batches), "flow", 3)
    learner.begin("adversarial")
    g, d = learner.networks.generator, learner.networks.discriminator
    assert torch.equal(d.levels[0][0].block.conv_in.weight, g.down[0]["blocks"][0].conv_in.weight)  # pyright: ignore
    assert torch.equal(d.widen[0].weight, g.widen[0].weight)  # pyright: ignore


@pytest.mark.parametrize("warm", [True, False])
def test_the_discriminator_has_a_head_start_where_the_generator_is_warm(warm: bool) -> None:
    learner, batches = toy_learner(TrainConfig(**PLAIN, discriminator_head_start=0.5))
    batch = one_batch(batches)
    if warm:
        run(learner, batch, "flow", 2)
    learner.begin("adversarial")
    g, d = (
        [p.clone() for p in network.parameters()]
        for network in (learner.networks.generator, learner.networks.discriminator)
    )

    def stayed(before: list[torch.Tensor], network: torch.nn.Module) -> bool:
        return all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))

    images = learner.images
    rows = learner.step("adversarial", batch, 0, 0.4).figures
    assert learner.images == images + 16
    assert not stayed(d, learner.networks.discriminator)
    assert stayed(g, learner.networks.generator) is warm
    assert ("g_loss" in rows) is not warm
    assert "g_loss" in learner.step("adversarial", batch, 1, 0.6).figures
    assert not stayed(g, learner.networks.generator)


def test_tensors_and_load_tensors_are_inverse() -> None:
    learner, batches = toy_learner(TrainConfig(**PLAIN))
    batch = one_batch(batches)
    run(learner, batch, "flow", 2)
    run(learner, batch, "adversarial", 3)
    saved = {
        g: {n: t.clone() for n, t in group.items()}
        for g, group in learner.tensors("adversarial").items()
    }
    other, _ = toy_learner(TrainConfig(**PLAIN, seed=5))
    other.load_tensors(saved)
    other.images, other.images_before = learner.images, learner.images_before
    learner.config = other.config  # same noise
    for position in range(2):
        a = learner.step("adversarial", batch, position, 0.6)
        b = other.step("adversarial", batch, position, 0.6)
        assert {k: float(v) for k, v in a.figures.items()} == {
            k: float(v) for k, v in b.figures.items()
        }
    for group, tensors in learner.tensors("adversarial").items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.tensors("adversarial")[group][name]), (group, name)


def test_ema_half_life() -> None:
    decay = ema_decay(64, 10**9, 500_000)
    assert decay ** (500_000 / 64) == pytest.approx(0.5)
    assert ema_decay(64, 64_000, 500_000) ** (0.05 * 64_000 / 64) == pytest.approx(0.5)
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.75 * a.weight + 0.25 * b.weight
    ema_update(a, b, 0.75)
    assert torch.allclose(a.weight, expected)
