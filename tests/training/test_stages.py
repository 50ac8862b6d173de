"""Each stage really learns, what is not finite changes nothing, and a stage resumes to the bit."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from t2i_cli.config import Attribute
from t2i_cli.errors import UsageError
from t2i_cli.training import losses
from t2i_cli.training.ema import ema_decay, ema_update
from t2i_cli.training.stages import STAGES, Material, Stage
from t2i_cli.training.stages import autoencoder as autoencoder_stage
from t2i_cli.training.stages.flow import Flow, attribute_weights, noise_levels
from t2i_cli.training.step import StepResult
from tests.toys import STYLE, toy_material, toy_networks, toy_stage

State = dict[str, dict[str, Tensor]]
ADVERSARIAL = 0.6  # progress at which the patch discriminator is there


@pytest.fixture(autouse=True)
def _small_perceptual_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The perceptual network looks at the toys' own size, which takes a ninth of the time."""
    monkeypatch.setattr(autoencoder_stage, "PERCEPTUAL_SIDE", 32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of latents for all tests of this file: its key tells encoders apart."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def decoder(cache: Path) -> dict[str, Tensor]:
    """Weights of a decoder that has learned to draw the toys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder_stage, "PERCEPTUAL_SIDE", 32)
        material = toy_material(cache, autoencoder_lr=4e-3)
        stage = toy_stage("autoencoder", material)
        for position in range(45):
            stage.step(position, 0.34 * position / 45)
    return material.networks.decoder.state_dict()


def run(stage: Stage, steps: int, start: int = 0) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for position in range(start, start + steps):
        result = stage.step(position, (position + 0.5) / (start + steps))
        assert not result.skipped
        rows.append(figures(result))
    return rows


def figures(result: StepResult) -> dict[str, float]:
    return {name: float(value) for name, value in result.figures.items()}


def mean(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def snapshot(stage: Stage) -> State:
    """A copy of everything that the stage changes."""
    return {
        group: {name: value.clone() for name, value in tensors.items()}
        for group, tensors in stage.state_dict().items()
    }


def power_iteration(group: str, name: str) -> bool:
    """The vectors of the spectral norm: functions of the weights alone, that move whenever D is asked."""
    return group == "helper-patch_discriminator" and name.endswith(("._u", "._v"))


def assert_same(
    before: State, after: State, leave: Callable[[str, str], bool] | None = None
) -> None:
    assert before.keys() == after.keys()
    for group, tensors in before.items():
        assert tensors.keys() == after[group].keys(), group
        for name, value in tensors.items():
            if leave is None or not leave(group, name):
                assert torch.equal(value, after[group][name]), (group, name)


def changed(before: State, after: State) -> set[str]:
    """Groups in which something is another."""
    return {
        group
        for group in after
        if any(
            name not in before.get(group, {}) or not torch.equal(value, before[group][name])
            for name, value in after[group].items()
        )
    }


def learned(stage: Stage) -> dict[str, nn.Module]:
    """The networks that a stage trains."""
    own = {
        id(p)
        for optimizer in stage.optimizers.values()
        for group in optimizer.param_groups
        for p in group["params"]
    }
    everything = {**dict(stage.networks.named_children()), **stage.helpers}
    return {
        name: network
        for name, network in everything.items()
        if any(id(p) in own for p in network.parameters())
    }


# -- learning ---------------------------------------------------------------------------------


def test_the_stages_come_in_their_order() -> None:
    names = list(STAGES)
    assert names == ["contrastive", "autoencoder", "flow", "gan"]
    assert all(stage.name == name for name, stage in STAGES.items())


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
@pytest.mark.parametrize("alignment", ["contrastive", "squared"])
def test_contrastive_tells_pictures_by_their_captions(
    cache: Path, kind: str, alignment: str
) -> None:
    material = toy_material(
        cache, kind=kind, contrastive_lr=3e-3, alignment=alignment, contrastive_batch_size=16
    )
    stage = toy_stage("contrastive", material)
    rows = run(stage, 70)
    assert rows[0]["contrastive_chance"] == pytest.approx(math.log(16))
    assert mean(rows[-5:], "contrastive_loss") < 0.5 * mean(rows[:5], "contrastive_loss")
    batch = material.batches.of(np.arange(16))
    with torch.no_grad():
        text = material.networks.text_encoder(batch.tokens, batch.mask).text_features
        cosines = material.networks.image_encoder(batch.images) @ text.T
    right = (cosines.argmax(1) == torch.arange(16)).float().mean()
    assert float(right) > 0.8
    assert stage.images == 70 * 16


def test_contrastive_trains_f_and_e_and_nothing_else(cache: Path) -> None:
    stage = toy_stage("contrastive", toy_material(cache))
    assert set(learned(stage)) == {"text_encoder", "image_encoder"}
    before = {name: copy.deepcopy(x) for name, x in stage.networks.named_children()}
    run(stage, 2)
    for name, network in stage.networks.named_children():
        same = all(
            torch.equal(a, b)
            for a, b in zip(before[name].parameters(), network.parameters(), strict=True)
        )
        assert same is (name not in ("text_encoder", "image_encoder")), name


def test_the_temperature_stays_in_its_bounds(cache: Path) -> None:
    stage = toy_stage("contrastive", toy_material(cache))
    scale = stage.networks.image_encoder.logit_scale
    for wild in (9.0, -3.0):
        with torch.no_grad():
            scale.fill_(wild)
        stage.step(1, 0.5)
        assert 0 <= scale.item() <= math.log(100) + 1e-6


def test_the_autoencoder_comes_to_draw_what_it_saw(cache: Path) -> None:
    material = toy_material(cache, autoencoder_lr=4e-3)
    stage = toy_stage("autoencoder", material)
    assert set(learned(stage)) == {"encoder", "decoder", "patch_discriminator"}
    rows = run(stage, 60)
    for name in ("l1", "perceptual_loss"):
        assert mean(rows[-5:], name) < 0.5 * mean(rows[:3], name), name
    assert "d_loss" not in rows[10]
    assert rows[-1].keys() >= {"d_loss", "d_real", "d_fake", "grad_norm"}
    stage.finish()
    images = material.batches.of(np.arange(16)).images
    with torch.no_grad():
        latents = material.networks.encoder(images)
        drawn = material.networks.decoder(latents)
    apart = (drawn[:, None] - images[None]).abs().flatten(2).mean(2)
    assert apart.argmin(1).tolist() == list(range(16))
    assert float(apart.diag().mean()) < 0.6 * float(apart.mean())


def test_the_patch_discriminator_learns_to_tell(cache: Path) -> None:
    stage = toy_stage("autoencoder", toy_material(cache, autoencoder_lr=2e-3))
    rows = [figures(stage.step(position, ADVERSARIAL)) for position in range(25)]
    assert mean(rows[-5:], "d_loss") < mean(rows[:3], "d_loss")
    assert mean(rows[-5:], "d_real") > mean(rows[-5:], "d_fake") + 0.1


def test_the_decoder_hears_the_patch_discriminator_and_never_teaches_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hinge loss D stays as it is, though the decoder's gradient goes through it."""
    stage = toy_stage("autoencoder", toy_material(cache))
    hinge = losses.hinge_d_loss
    monkeypatch.setattr(losses, "hinge_d_loss", lambda r, f: 0 * hinge(r, f))
    before = [p.clone() for p in stage.helpers["patch_discriminator"].parameters()]
    with_d = figures(stage.step(0, ADVERSARIAL))
    after = stage.helpers["patch_discriminator"].parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    other = toy_stage("autoencoder", toy_material(cache))
    without_d = figures(other.step(0, 0.1))
    assert with_d["l1"] == without_d["l1"]
    assert with_d["grad_norm"] != without_d["grad_norm"]


def test_equivariant_steps_shrink_turn_and_mirror_pictures_and_latents_alike() -> None:
    """Latents that are pictures of one pixel a cell: what is done to both is the same."""
    random = torch.Generator().manual_seed(0)
    seen: set[tuple[int, bool]] = set()
    for _ in range(60):
        images = torch.randn(2, 4, 32, 32)
        latents = torch.nn.functional.avg_pool2d(images, 4)
        small, whole = autoencoder_stage._transformed(latents, images, random)
        side = small.shape[-1]
        assert small.shape == (2, 4, side, side)
        assert whole.shape == (2, 4, 4 * side, 4 * side)
        assert 4 <= side <= 8
        if side == 8:  # turned or mirrored alone, so equal to the bit but for rounding
            torch.testing.assert_close(torch.nn.functional.avg_pool2d(whole, 4), small)
        seen.add((side, bool(torch.equal(whole, images))))
    assert {side for side, _ in seen} == {4, 5, 6, 7, 8}


def test_the_autoencoder_learns_with_equivariance_too(cache: Path) -> None:
    stage = toy_stage("autoencoder", toy_material(cache, autoencoder_lr=4e-3, equivariance=1.0))
    rows = run(stage, 40)
    assert mean(rows[-5:], "l1") < 0.6 * mean(rows[:3], "l1")
    assert not any("d_loss" in row for row in rows)  # D never sees a picture that was changed


def test_flow_learns_to_draw_what_a_caption_says(cache: Path) -> None:
    """Euler steps from noise end nearer to the latents of their caption's picture than to others."""
    material = toy_material(cache, flow_lr=1e-2, batch_size=16, caption_dropout=0.0)
    stage = toy_stage("flow", material)
    assert isinstance(stage, Flow)
    assert set(learned(stage)) == {"generator"}
    rows = run(stage, 110)
    first, last = mean(rows[:5], "flow_loss"), mean(rows[-15:], "flow_loss")
    assert first == pytest.approx(2, abs=0.4)  # of no velocity at all: n and z have variance one
    assert last < 0.6 * first
    assert stage.images == 110 * 16
    stage.finish()
    generator, encoder = material.networks.generator, material.networks.text_encoder
    tokens, mask = material.batches.tokens([material.batches.captions(at)[0] for at in range(16)])
    attributes = torch.from_numpy(stage.attributes)
    with torch.no_grad():
        condition = generator.condition(encoder(tokens, mask), tokens, attributes)
        read = stage._read(stage.near[:16, :3], torch.zeros(16, dtype=torch.bool))
        z = torch.randn(16, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        for step in range(8):
            level = torch.full((16,), 1 - step / 8)
            z = z - generator(z, level, condition, read) / 8
    real = torch.from_numpy(stage.latents.latents[:16].astype(np.float32))
    apart = (z[:, None] - real[None]).square().flatten(2).mean(2)
    assert float((apart.argmin(1) == torch.arange(16)).float().mean()) >= 0.5
    assert float(apart.diag().mean()) < 0.7 * float(apart.mean())


@torch.no_grad()
def fit(material: Material) -> float:
    """How much nearer pictures drawn in one step are to their own caption than to others, in cosines, by E."""
    networks, batch = material.networks, material.batches.of(np.arange(16))
    generator = networks.generator
    text = networks.text_encoder(batch.tokens, batch.mask)
    none = torch.full((16, 1), 2)
    noise = torch.randn(16, 16, 8, 8, generator=torch.Generator().manual_seed(9))
    condition = generator.condition(text, batch.tokens, none)
    velocity = generator(noise, torch.ones(16), condition, generator.no_references(16))
    features = networks.image_encoder(networks.decoder(noise - velocity))
    cosines = features @ text.text_features.T
    return float(cosines.diag().mean() - cosines.mean())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "transformer"),
        ({"loss": "log", "penalty": "exact"}, "transformer"),
        ({"alignment": "squared", "discriminator_steps": 2}, "lstm"),
    ],
)
def test_the_founding_forms_come_to_follow_the_caption(
    cache: Path, decoder: dict[str, Tensor], options: dict[str, Any], kind: str
) -> None:
    """From a generator that draws noise: pictures come to be those of their captions, and only G and D learn."""
    material = toy_material(
        cache, kind=kind, objective="gan", contrastive_lr=3e-3, contrastive_batch_size=16, batch_size=16,
        gan_lr=1e-3, discriminator_lr=1.0, alignment_weight=2.0, caption_dropout=0.0, **options,
    )  # fmt: skip
    run(toy_stage("contrastive", material), 60)
    material.networks.decoder.load_state_dict(decoder)
    stage = toy_stage("gan", material)
    assert set(learned(stage)) == {"generator", "discriminator"}
    frozen = {
        name: copy.deepcopy(network)
        for name, network in material.networks.named_children()
        if name != "generator"
    }
    before = fit(material)
    rows = run(stage, 60)  # whitened, the texts of so few toys are harder to tell
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[-1]["alignment_loss"] < 0.7 * rows[1]["alignment_loss"]
    assert fit(material) > before + 0.15
    for name, network in frozen.items():
        now = getattr(material.networks, name).parameters()
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), now, strict=True)), name


def test_the_discriminator_starts_from_the_image_encoder(cache: Path) -> None:
    material = toy_material(cache)
    stage = STAGES["gan"](material)
    trunk = stage.helpers["discriminator"].conv_in.weight  # pyright: ignore
    assert torch.equal(trunk, material.networks.image_encoder.conv_in.weight)


def test_the_adversarial_stage_reports_what_the_discriminator_knows(cache: Path) -> None:
    stage = toy_stage("gan", toy_material(cache, indices=range(8)))
    assert stage.report(np.arange(15, 8, -1)) == {}  # seven are too few
    told = stage.report(np.arange(8, 16))
    assert told == stage.report(np.arange(8, 16))
    assert set(told) == {"d_val", "d_seen", "d_spread", "dead"}
    assert all(math.isfinite(value) for value in told.values())
    judge = stage.helpers["discriminator"]
    with torch.no_grad():
        for parameter in judge.mix.parameters():  # pyright: ignore
            parameter.zero_()
    assert stage.report(np.arange(8, 16))["dead"] == 1
    assert toy_stage("contrastive", toy_material(cache)).report(np.arange(8)) == {}


@pytest.mark.parametrize("name", list(STAGES))
def test_a_rehearsal_makes_real_steps_and_encodes_nothing(tmp_path: Path, name: str) -> None:
    stage = STAGES[name](toy_material(tmp_path))
    rehearsal = stage.rehearse()
    for turn in range(2):
        result = rehearsal(turn)
        assert isinstance(result, StepResult)
        assert not result.skipped
    assert not list(tmp_path.iterdir())


# -- what flow is given -----------------------------------------------------------------------


def flow_stage(cache: Path, **options: Any) -> tuple[Flow, Material]:
    material = toy_material(cache, **options)
    stage = toy_stage("flow", material)
    assert isinstance(stage, Flow)
    return stage, material


def test_flow_reads_other_pictures_than_the_one_it_draws(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, material = flow_stage(cache, recolour=0.5, mirror=0.5, caption_dropout=0.0)
    assert material.references is stage.store
    originals = torch.from_numpy(stage.store.read(np.arange(16)))
    seen = 0
    read = material.networks.generator.read

    def watched(latents: Tensor, attributes: Tensor, without: Tensor) -> Any:
        nonlocal seen
        for row in range(len(latents)):
            place = int(pictures[row])
            assert not any(torch.equal(one, originals[place]) for one in latents[row])
            assert all((originals == one).flatten(1).all(1).any() for one in latents[row])
            seen += 1
        return read(latents, attributes, without)

    rows_of = stage._rows
    monkeypatch.setattr(material.networks.generator, "read", watched)
    pictures = np.zeros(8, int)

    def rows(draw: np.random.Generator, size: int) -> np.ndarray:
        nonlocal pictures
        found = rows_of(draw, size)
        pictures = stage.latents.pictures[found]
        return found

    monkeypatch.setattr(stage, "_rows", rows)
    run(stage, 5)
    assert seen == 40


def test_a_dropped_caption_loses_its_references_too(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, material = flow_stage(cache, caption_dropout=0.5, batch_size=64)
    generator = material.networks.generator
    condition, read = generator.condition, generator.read
    dropped: list[Tensor] = []
    alone: list[Tensor] = []
    monkeypatch.setattr(generator, "condition", lambda *a: dropped.append(a[3]) or condition(*a))
    monkeypatch.setattr(generator, "read", lambda *a: alone.append(a[2]) or read(*a))
    run(stage, 12)
    no_text, no_reference = torch.cat(dropped), torch.cat(alone)
    assert bool(no_reference[no_text].all())
    assert 0.44 < float(no_text.float().mean()) < 0.56
    assert 0.0 < float(no_reference[~no_text].float().mean()) < 0.1


def test_attributes_are_dropped_together_and_now_and_then(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, material = flow_stage(cache, batch_size=64)
    generator, told = material.networks.generator, []
    condition = generator.condition
    monkeypatch.setattr(generator, "condition", lambda *a: told.append(a[2]) or condition(*a))
    run(stage, 10)
    shares = torch.bincount(torch.cat(told)[:, 0], minlength=3) / 640
    # two of sixteen toys have no style, and of the others 15% lose theirs
    assert float(shares[2]) == pytest.approx(0.125 + 0.875 * 0.15, abs=0.06)
    assert abs(float(shares[0] - shares[1])) < 0.2
    of_pictures = stage.attributes[:8, 0].tolist()
    assert of_pictures == [0, 1, 0, 1, 0, 1, 0, 2]  # unchanged


def test_flow_without_attributes(cache: Path) -> None:
    stage, _ = flow_stage(cache, attributes=())
    assert stage.attributes.shape == (16, 0)
    assert math.isfinite(run(stage, 2)[1]["flow_loss"])


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_flow_of_hardly_any_picture(cache: Path, pictures: int) -> None:
    """A picture that has no other to be drawn from is drawn without references."""
    material = toy_material(cache, digest=f"{pictures} toys", indices=range(pictures))
    stage = toy_stage("flow", material)
    assert isinstance(stage, Flow)
    before = [p.clone() for p in material.networks.generator.parameters()]
    run(stage, 3)
    assert material.references is not None
    assert len(material.references) == pictures
    after = material.networks.generator.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_weights_of_attributes_say_how_often_a_picture_is_shown(cache: Path) -> None:
    stage, _ = flow_stage(
        cache, attribute_weights="style=bold:0.5,light:2", recolour=0.5, mirror=0.5
    )
    draw = np.random.default_rng(0)
    rows = stage._rows(draw, 40_000)
    assert rows.min() >= 0
    assert rows.max() < len(stage.latents.pictures)
    shown = np.bincount(rows, minlength=len(stage.latents.pictures)) / 40_000
    weight = np.array([0.5, 2, 1])[stage.attributes[stage.latents.pictures, 0]]
    np.testing.assert_allclose(shown, weight / weight.sum(), atol=0.004)


def test_captions_are_the_first_in_most_rows_and_any_in_the_rest(cache: Path) -> None:
    stage, material = flow_stage(cache, recolour=1.0, batch_size=64)
    assert all(len(set(ids.tolist())) == 2 for ids in stage.caption_ids)  # both of each toy's
    for row, place in enumerate(stage.latents.pictures):
        told = [stage.texts[at] for at in stage.caption_ids[row]]
        assert told[:2] == stage.latents.captions(row, material.batches.captions(int(place)))
    seen: list[str] = []
    tokens = material.batches.tokens
    material.batches.tokens = lambda texts: seen.extend(texts) or tokens(texts)  # type: ignore[method-assign]
    run(stage, 10)
    first = sum(text.startswith("a") for text in seen) / len(seen)
    assert first == pytest.approx(0.6 + 0.4 * 0.5, abs=0.06)


STYLES = (STYLE, Attribute("season", ("summer", "winter")))


@pytest.mark.parametrize(
    ("told", "tables"),
    [
        ("", [[1, 1, 1], [1, 1, 1]]),
        ("style=light:0.4", [[1, 0.4, 1], [1, 1, 1]]),
        (" style = bold:2 , light:0.5 ; season=winter:3;", [[2, 0.5, 1], [1, 3, 1]]),
    ],
)
def test_attribute_weights(told: str, tables: list[list[float]]) -> None:
    found = attribute_weights(told, STYLES)
    assert [table.tolist() for table in found] == tables
    assert attribute_weights("", ()) == []


def test_a_value_with_a_colon_in_it_has_a_weight() -> None:
    odd = Attribute("size", ("16:9", "4:3"))
    assert attribute_weights("size=16:9:0.5", (odd,))[0].tolist() == [0.5, 1, 1]


@pytest.mark.parametrize(
    "told",
    [
        "styl=bold:2", "bold:2", "style=loud:2", "style=bold", "style=bold:", "style=bold:x", "style=bold:0",
        "style=bold:-1", "style=bold:nan", "style=bold:inf", "style=bold:1000", "style=:2", "season=bold:2",
    ],
)  # fmt: skip
def test_wrong_attribute_weights_are_named(told: str) -> None:
    with pytest.raises(UsageError, match="attribute_weights: ") as refused:
        attribute_weights(told, STYLES)
    hints = ("for example bold:0.5", "for example summer:0.5", "there are: style, season")
    assert refused.value.hint in hints


def test_weights_of_attributes_that_the_data_has_not() -> None:
    with pytest.raises(UsageError, match="'style': no such attribute") as refused:
        attribute_weights("style=bold:2", ())
    assert refused.value.hint == "there are: none"


def test_noise_levels_are_logit_normal_and_a_tenth_uniform() -> None:
    random = torch.Generator().manual_seed(0)
    levels = noise_levels(200_000, random).double()
    assert levels.dtype == torch.float64
    assert float(levels.min()) >= 0
    assert float(levels.max()) <= 1

    def expected(s: float) -> float:
        normal = 0.5 * (1 + math.erf((math.log(s / (1 - s)) - 0.3) / math.sqrt(2)))
        return 0.9 * normal + 0.1 * s

    for s in (0.02, 0.1, 0.3, 0.5, 0.57, 0.8, 0.95):
        assert float((levels < s).double().mean()) == pytest.approx(expected(s), abs=0.004)
    again = noise_levels(50, torch.Generator().manual_seed(3))
    assert torch.equal(again, noise_levels(50, torch.Generator().manual_seed(3)))


# -- what is not finite -----------------------------------------------------------------------


@contextmanager
def poisoned(network: nn.Module, where: str, value: float) -> Iterator[None]:
    """Something that is not finite, in what a network says or in the gradient of one of its weights."""
    if where == "output":

        def spoil(module: nn.Module, given: Any, said: Any) -> Any:
            if isinstance(said, Tensor):
                return said + value
            parts = vars(said)  # a dataclass of tensors
            return dataclasses.replace(
                said, **{name: part + value for name, part in parts.items() if part.is_floating_point()}
            )  # fmt: skip

        hook = network.register_forward_hook(spoil)
    else:  # a weight that got a gradient in the step before
        parameter = next(p for p in network.parameters() if p.dim() > 1 and p.grad is not None)
        hook = parameter.register_hook(lambda gradient: torch.full_like(gradient, value))
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("name", list(STAGES))
@pytest.mark.parametrize("where", ["output", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_in_any_network_changes_nothing(
    cache: Path, name: str, where: str, value: float
) -> None:
    stage = toy_stage(name, toy_material(cache))
    stage.step(0, ADVERSARIAL)
    before = snapshot(stage)
    for network_name, network in learned(stage).items():
        with poisoned(network, where, value):
            assert stage.step(1, ADVERSARIAL).skipped, network_name
        assert_same(before, stage.state_dict(), power_iteration)
    good = stage.step(2, ADVERSARIAL)
    assert not good.skipped
    assert all(math.isfinite(number) for number in figures(good).values())
    twin = toy_stage(name, toy_material(cache))
    twin.load_state_dict(before)
    if name != "autoencoder":  # whose power iterations went on
        assert figures(twin.step(2, ADVERSARIAL)) == figures(good)
        assert_same(twin.state_dict(), stage.state_dict())


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("autoencoder", "hinge_d_loss"),
        ("autoencoder", "perceptual_loss"),
        ("gan", "relativistic_d_loss"),
        ("gan", "relativistic_g_loss"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_of_two_losses_is_enough_to_leave_out_both_steps(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, loss: str, value: float
) -> None:
    """The other loss is finite, and still neither network of the pair moves, whichever it is."""
    stage = toy_stage(name, toy_material(cache))
    stage.step(0, ADVERSARIAL)
    before = snapshot(stage)
    whole = getattr(losses, loss)
    with monkeypatch.context() as patch:
        patch.setattr(losses, loss, lambda *told: whole(*told) + value)
        result = stage.step(1, ADVERSARIAL)
    assert result.skipped
    assert_same(before, stage.state_dict(), power_iteration)
    assert not stage.step(2, ADVERSARIAL).skipped
    assert changed(before, snapshot(stage)) == set(before)


@pytest.mark.parametrize("name", ["contrastive", "autoencoder", "gan"])
def test_a_picture_that_is_not_finite_changes_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stage = toy_stage(name, toy_material(cache))
    stage.step(0, ADVERSARIAL)
    before = snapshot(stage)
    batches = stage.material.batches
    get = batches.get

    def bad(*asked: Any) -> Any:
        batch = get(*asked)
        batch.images[3, 0, 5, 5] = math.nan
        return batch

    monkeypatch.setattr(batches, "get", bad)
    assert stage.step(1, ADVERSARIAL).skipped
    assert_same(before, stage.state_dict(), power_iteration)


# -- the same again ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(STAGES))
def test_the_same_seed_and_position_give_the_same_step(cache: Path, name: str) -> None:
    ends: list[State] = []
    for seed in (0, 0, 1):
        stage = toy_stage(name, toy_material(cache, seed=seed, mirror=0.5))
        for position in (5, 2):
            stage.step(position, ADVERSARIAL)
        ends.append(snapshot(stage))
    assert_same(ends[0], ends[1])
    assert changed(ends[0], ends[2]) >= {"networks"}


@pytest.mark.parametrize("name", list(STAGES))
def test_another_position_is_another_step(cache: Path, name: str) -> None:
    stage = toy_stage(name, toy_material(cache))
    first = figures(stage.step(0, ADVERSARIAL))
    other = toy_stage(name, toy_material(cache))
    assert figures(other.step(1, ADVERSARIAL)) != first


@pytest.mark.parametrize("name", list(STAGES))
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_stage_resumes_to_the_bit(cache: Path, name: str, at: int) -> None:
    options: dict[str, Any] = {"mirror": 0.5, "recolour": 0.5, "equivariance": 0.3}
    unbroken = toy_stage(name, toy_material(cache, **options))
    saved: State = {}
    rows: list[dict[str, float]] = []
    for position in range(6):
        if position == at:
            saved = snapshot(unbroken)
        rows.append(figures(unbroken.step(position, position / 6)))
    # other weights, as a new process builds them before it reads its state
    material = toy_material(cache, **options)
    material.networks.load_state_dict(toy_networks(seed=9, attributes=(STYLE,)).state_dict())
    resumed = STAGES[name](material)
    resumed.load_state_dict(saved)
    list(resumed.prepare())
    assert [figures(resumed.step(p, p / 6)) for p in range(at, 6)] == rows[at:]
    assert_same(unbroken.state_dict(), resumed.state_dict())
    for network, tensors in unbroken.weights().items():
        assert all(
            torch.equal(value, resumed.weights()[network][n]) for n, value in tensors.items()
        )


@pytest.mark.parametrize("name", list(STAGES))
def test_a_state_is_whole_and_of_its_own_stage(cache: Path, name: str) -> None:
    stage = toy_stage(name, toy_material(cache))
    stage.step(0, ADVERSARIAL)
    saved = snapshot(stage)
    assert set(saved) == {
        "networks",
        f"stage-{name}",
        *(f"average-{one}" for one in stage.averages),
        *(f"helper-{one}" for one in stage.helpers),
        *(f"optimizer-{one}" for one in stage.optimizers),
    }
    assert all(saved[f"optimizer-{one}"] for one in stage.optimizers)
    other = toy_stage("autoencoder" if name != "autoencoder" else "flow", toy_material(cache))
    with pytest.raises((KeyError, RuntimeError)):
        other.load_state_dict(saved)


def test_a_resumed_flow_keeps_the_whitening_that_it_began_with(cache: Path) -> None:
    stage, material = flow_stage(cache)
    run(stage, 2)
    whitening = material.networks.generator.text_whiten.clone()
    assert not torch.equal(whitening, torch.eye(32) * 32**0.5)
    average = stage.averages["generator"]
    assert torch.equal(average.text_whiten, whitening)  # pyright: ignore
    with torch.no_grad():
        next(material.networks.text_encoder.parameters()).mul_(1.5)  # captions read otherwise now
    list(stage.prepare())
    assert torch.equal(material.networks.generator.text_whiten, whitening)


@pytest.mark.parametrize("name", ["flow", "gan"])
@pytest.mark.parametrize("contrastive", [0.0, 0.5])
def test_a_trained_generator_is_told_of_texts_as_it_was(
    cache: Path, name: str, contrastive: float
) -> None:
    material = toy_material(cache, contrastive=contrastive)
    material.warm = True
    whitening = material.networks.generator.text_whiten.mul_(3.0).clone()
    list(toy_stage(name, material).prepare())
    kept = torch.equal(material.networks.generator.text_whiten, whitening)
    assert kept == (contrastive == 0.0)  # a text encoder that learns on is whitened anew


# -- averages and learning rates ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "network"), [("autoencoder", "decoder"), ("flow", "generator"), ("gan", "generator")]
)
def test_what_is_saved_and_goes_on_is_the_average(cache: Path, name: str, network: str) -> None:
    stage = toy_stage(name, toy_material(cache))
    run(stage, 6)
    average, learner = stage.averages[network], getattr(stage.networks, network)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(average.parameters(), learner.parameters(), strict=True)
    )
    saved = stage.weights()
    assert set(saved) == {one for one, _ in stage.networks.named_children()}
    assert all(torch.equal(value, average.state_dict()[n]) for n, value in saved[network].items())
    stage.finish()
    assert all(
        torch.equal(a, b) for a, b in zip(average.parameters(), learner.parameters(), strict=True)
    )


def test_the_flow_warms_up_and_ends_at_a_twentieth(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, _ = flow_stage(cache, flow_lr=2e-3)
    optimizer = stage.optimizers["generator"]
    rates: list[float] = []
    for images, progress in ((0, 0.0), (49 * 8, 0.0), (10_000, 0.0), (10_000, 0.5), (10_000, 1.0)):
        stage.images = images
        stage.step(0, progress)
        rates.append(optimizer.param_groups[0]["lr"])
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
    expected = [2e-3 / 100, 2e-3 / 2, 2e-3, 2e-3 * (0.05 + 0.95 / 2), 2e-3 * 0.05]
    assert rates == pytest.approx(expected)


def test_ema_half_life() -> None:
    decay = ema_decay(64, 10**9, 500_000)
    assert decay ** (500_000 / 64) == pytest.approx(0.5)
    assert ema_decay(64, 64_000, 500_000) ** (0.05 * 64_000 / 64) == pytest.approx(0.5)
    assert ema_decay(64, 64_000, 500_000, 0.1) ** (0.1 * 64_000 / 64) == pytest.approx(0.5)
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = 0.75 * a.weight + 0.25 * b.weight
    ema_update(a, b, 0.75)
    assert torch.allclose(a.weight, expected)
