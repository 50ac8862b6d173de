"""One step of each stage: a batch in, weights changed, a row of numbers out.

The stages share one `Learner`, which holds the networks, their optimizers and the averaged generator. A step
that meets a NaN or an infinity changes nothing and says so (Reliability 9).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from t2i_cli.config import TrainConfig
from t2i_cli.models import Discriminator, Generator, Networks, TextEncoding, many_steps, one_step
from t2i_cli.training import distributed, losses, muon
from t2i_cli.training.augment import augment, mirror, random_background
from t2i_cli.training.batches import Batch, seed_for
from t2i_cli.training.ema import ADVERSARIAL_SHARE, SHARE, ema_decay, ema_update
from t2i_cli.training.pairs import Chunk, Pairs

__all__ = ["STAGES", "Learner", "StepResult", "default_gamma"]

STAGES = ("contrastive", "flow", "distill", "adversarial")
FLOW_TIMES = 2.0  # Muon's learning rate over AdamW's in the flow; what is learned already wants smaller steps
MEASURE_EVERY = 4  # steps between two looks at how far a step moves the weights
SIGMA = 0.02  # of the finite difference, in the pictures' own range of -1 to 1
MAX_NORM = 1.0  # of the gradient in the contrastive and flow stages


@dataclass
class StepResult:
    """What a step found out."""

    figures: dict[str, Tensor | float] = field(default_factory=dict[str, "Tensor | float"])
    skipped: bool = False  # a loss or a gradient was not finite, and nothing was changed


def default_gamma(resolution: int) -> float:
    """First weight of the gradient penalties; it falls to a tenth. Larger pictures have larger gradients."""
    return {32: 0.5, 64: 2.0, 128: 17.0, 256: 150.0}[resolution]


class Learner:
    """Networks and optimizers of a run, and a step of each stage.

    Args:
        networks: with a discriminator, on the device.
        config: of the run.
        tokens: tokens (1, t) and mask (1, t) of the empty text.
    """

    def __init__(
        self, networks: Networks, config: TrainConfig, tokens: tuple[Tensor, Tensor]
    ) -> None:
        self.networks, self.config = networks, config
        self.average: Generator = copy.deepcopy(networks.generator).requires_grad_(
            requires_grad=False
        )
        self.anchor: Generator | None = None  # the averaged generator as an earlier stage left it
        self.flow: Generator | None = None  # what is distilled, where it is not this run's own
        self.pairs = Pairs(config.distill_pairs)
        self.device = next(networks.parameters()).device
        self.gamma = config.gamma or default_gamma(networks.config.resolution)
        self.warm = (
            False  # whether the generator has learned something before the adversarial stage
        )
        self.images = 0  # seen by the generator, over flow and adversarial stages
        self.images_before = (
            0  # of these, before this stage: each stage's average forgets at its own pace
        )
        self._measured = False  # whether this step looks at how far it moves the weights
        self._null_tokens = tokens
        fused = self.device.type in ("cpu", "cuda")
        adversarial = {
            "lr": config.adversarial_lr,
            "betas": (0.0, 0.9),
            "eps": 1e-8,
            "fused": fused,
        }
        pair = [*networks.text_encoder.parameters(), *networks.image_encoder.parameters()]
        flow: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.01, "fused": fused}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "contrastive": torch.optim.AdamW(
                _groups(pair), lr=config.contrastive_lr, **{**flow, "weight_decay": 0.1}
            ),
            "flow": muon.for_generator(
                networks.generator, lr=config.flow_lr, times=FLOW_TIMES, **flow
            ),
            "distill": muon.for_generator(networks.generator, lr=config.flow_lr, **flow),
            "generator": torch.optim.Adam(networks.generator.parameters(), **adversarial),
            "discriminator": torch.optim.Adam(networks.discriminator.parameters(), **adversarial),
        }

    # -- stages begin ---------------------------------------------------------------------------

    def begin(self, stage: str) -> None:
        """Make ready for a stage that is entered for the first time (not where it is resumed)."""
        self.images_before = self.images
        if stage == "flow":
            self.start_average()
        if stage == "distill":
            self.keep_anchor()
            self.anchor = self.flow or self.anchor
        if stage == "adversarial":
            # the flow knows clean pictures on its way down; what was distilled from it knows only noise
            looks = self.anchor or self.networks.generator
            if self.pairs:  # G is held to what the flow drew, which the anchor goes on to be
                ema_update(self.networks.generator, self.average, 0.0)
            elif self.warm or self.images:
                self.keep_anchor()
            with torch.no_grad():
                null = self.null(1).text_features
            self.networks.discriminator.start_from(looks, null)

    def start_average(self) -> None:
        """Let the average begin at the generator's weights: for a run that starts from given ones."""
        self.warm = True
        ema_update(self.average, self.networks.generator, 0.0)

    def keep_anchor(self) -> None:
        """Go on from the averaged generator and remember it: to distill it, or to be pulled towards it."""
        ema_update(self.networks.generator, self.average, 0.0)
        self.anchor = copy.deepcopy(self.average)

    @torch.no_grad()
    def null(self, rows: int) -> TextEncoding:
        """The encoding of the empty text, as many rows as asked for."""
        tokens, mask = self._null_tokens
        return self.networks.text_encoder(tokens.expand(rows, -1), mask.expand(rows, -1))

    # -- steps ----------------------------------------------------------------------------------

    def step(self, stage: str, batch: Batch, position: int, progress: float) -> StepResult:
        """One step of a stage.

        Args:
            stage: one of `STAGES`.
            batch: what to learn from.
            position: number of the step, which fixes its noise.
            progress: of the stage, 0 to 1, for the schedules.
        """
        random = torch.Generator(self.device).manual_seed(
            seed_for(self.config.seed, stage, "noise", position)
        )
        self._measured = position % MEASURE_EVERY == 0
        if stage == "contrastive":
            return self._contrastive(batch, progress, random)
        if stage == "flow":
            return self._flow(batch, progress, random)
        if stage == "distill":
            return self._distill(batch, position, progress, random)
        return self._adversarial(batch, position, progress, random)

    def _contrastive(self, batch: Batch, progress: float, random: torch.Generator) -> StepResult:
        networks, optimizer = self.networks, self.optimizers["contrastive"]
        _set_lr(
            optimizer,
            self.config.contrastive_lr * _warm_cosine(progress, 0.05, 0.02),
        )
        images = random_background(augment(batch.images, 0.3, random), 0.5, random)
        text = networks.text_encoder(batch.tokens, batch.mask)
        text_features = distributed.gather(text.text_features)
        image_features = distributed.gather(networks.image_encoder(images))
        if self.config.alignment == "squared":
            loss = losses.squared_distance_loss(image_features, text_features)
            # alone it has a trivial minimum at one point, so captions that differ are also told apart
            loss = loss + losses.contrastive_loss(
                image_features,
                text_features,
                networks.image_encoder.logit_scale,
                _same(batch.text),
            )
        else:
            loss = losses.contrastive_loss(
                image_features,
                text_features,
                networks.image_encoder.logit_scale,
                _same(batch.text),
            )
        whole, figures = loss, {}
        if batch.lesson is not None:
            extra = networks.text_encoder(batch.lesson.tokens, batch.lesson.mask)
            student = torch.cat([text_features[batch.lesson.known], extra.text_features])
            taught = losses.relation_loss(student, batch.lesson.features)
            whole, figures = (
                loss + self.config.teacher_weight * taught,
                {"teacher_loss": taught.detach()},
            )
        found = self._descend(optimizer, whole, MAX_NORM)
        if found is None:
            return StepResult({"contrastive_loss": math.nan}, skipped=True)
        with torch.no_grad():
            networks.image_encoder.logit_scale.clamp_(0, math.log(100))
        return StepResult(
            {
                "contrastive_loss": loss.detach(),
                "contrastive_chance": math.log(
                    len(batch.text)
                ),  # the loss of features that say nothing
                "logit_scale": networks.image_encoder.logit_scale.detach().exp(),
                **found,
                **figures,
            }
        )

    def _flow(self, batch: Batch, progress: float, random: torch.Generator) -> StepResult:
        networks, optimizer = self.networks, self.optimizers["flow"]
        _set_lr(optimizer, self.config.flow_lr * _warm_cosine(progress, 0.02, 0.1))
        b = len(batch.images)
        noise = _normal(batch.images.shape, random)
        level = torch.sigmoid(distributed.normal(random, b) + 0.4)
        # a tenth of the batch learns the one step itself, from pure noise: it is what the next stage starts from; a
        # tenth all levels alike, for a sampler's last steps meet low ones, which the logit-normal all but leaves out
        kind = distributed.uniform(random, b)
        level = torch.where(kind < 0.1, 1.0, level)
        level = torch.where(kind > 0.9, (kind - 0.9) * 10, level)
        s = level[:, None, None, None]
        noisy = (1 - s) * batch.images + s * noise
        text = self._dropped(self.encode(batch.tokens, batch.mask), random)
        style = networks.generator.style(text.text_features)
        denoised = networks.generator(noisy, level, text.text_embeds, text.mask, style)
        loss = losses.flow_loss(denoised, batch.images, level)
        found = self._descend(optimizer, loss, MAX_NORM)
        if found is None:
            return StepResult({"flow_loss": math.nan}, skipped=True)
        self._averaged(len(batch.text))
        return StepResult({"flow_loss": loss.detach(), **found})

    def _distill(
        self, batch: Batch, position: int, progress: float, random: torch.Generator
    ) -> StepResult:
        """One step learns what many guided steps make of the same noise: Luhman & Luhman 2021, equation 5.

        The first half of the stage makes pairs of its batches' captions while there is room; all of it learns.
        """
        networks, optimizer = self.networks, self.optimizers["distill"]
        _set_lr(optimizer, self.config.flow_lr * _warm_cosine(progress, 0.02, 0.05))
        size = len(batch.text)
        room = not self.pairs or (progress < 0.5 and self.pairs.room_for(size))
        if room and not self.make_pairs(position, batch):
            return StepResult({"distill_loss": math.nan}, skipped=True)
        networks.image_encoder.requires_grad_(requires_grad=False)
        loss, figures = self._apart(self.pairs.pick(random), random)
        networks.image_encoder.requires_grad_(requires_grad=True)
        found = self._descend(optimizer, loss, MAX_NORM)
        if found is None:
            return StepResult({"distill_loss": math.nan}, skipped=True)
        self._averaged(size)
        return StepResult({**figures, "pairs": float(len(self.pairs) * size), **found})

    def _apart(
        self, chunk: Chunk, random: torch.Generator, half: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """How far one step is from what the flow made of a chunk's noise, weighed, and the parts of that.

        Args:
            chunk: of pairs.
            random: of the step.
            half: in the game, 0 or 1: every second two of them alone, from the first or the second two on, and how far
                two of one caption are apart too, each with its weight; None: in the distill stage.
        """
        config, encoder = self.config, self.networks.image_encoder
        text, noise = self._told(chunk.position, chunk.tokens, chunk.mask, chunk.pictures.shape)
        target, turnable = chunk.images(), chunk.turnable
        # two of one caption stay together, and of several processes each has half of its rows
        if half is not None and len(turnable) > 2:
            rows = [row for row in range(len(turnable)) if row // 2 % 2 == half]
            some = torch.tensor(rows, device=turnable.device)
            text, noise, target, turnable = text[some], noise[some], target[some], turnable[some]
        # the flow saw pictures mirrored, so the mirrored noise leads it to the mirrored picture: a second pair for free
        flips = distributed.uniform(random, len(turnable)) < config.mirror
        noise, target = (mirror(x, flips & turnable) for x in (noise, target))
        drawn = one_step(self.networks.generator, noise, text)
        near, spread_weight = (
            (1.0, 0.0) if half is None else (config.pairs_weight, config.spread_weight)
        )
        pixels = losses.distill_loss(drawn, target)
        whole = near * pixels
        figures: dict[str, Tensor | float] = {"distill_loss": pixels.detach()}
        if not (config.distill_perceptual or spread_weight):
            return whole, figures
        with torch.no_grad():
            wanted = encoder.feature_maps(target)
        found = encoder.feature_maps(drawn)
        if config.distill_perceptual:
            perceptual = losses.perceptual_loss(found, wanted)
            whole = whole + near * config.distill_perceptual * perceptual
            figures["perceptual_loss"] = perceptual.detach()
        if spread_weight and len(drawn) > 1:
            spread = losses.spread_loss(found, wanted)
            whole = whole + spread_weight * spread
            figures["spread_loss"] = spread.detach()
        return whole, figures

    @torch.no_grad()
    def make_pairs(self, position: int, batch: Batch) -> bool:
        """Draw a batch's captions along the flow, with guidance, and keep the pictures: they follow from the position.

        Args:
            position: number of the step.
            batch: of that step.

        Returns:
            False where a number was not finite; nothing is kept then.
        """
        assert self.anchor is not None
        text, noise = self._told(position, batch.tokens, batch.mask, batch.images.shape)
        config, null = self.config, self.null(len(noise))
        images = many_steps(
            self.anchor, noise, text, null, config.distill_steps, config.distill_guidance
        )
        finite = math.isfinite(distributed.mean({"largest": images.abs().amax()})["largest"])
        if finite:
            self.pairs.add(position, batch, images)
        return finite

    def _told(
        self, position: int, tokens: Tensor, mask: Tensor, shape: torch.Size
    ) -> tuple[TextEncoding, Tensor]:
        """The texts, some left out, and the noise of the pairs that a step made."""
        random = torch.Generator(self.device).manual_seed(
            seed_for(self.config.seed, "pairs", "noise", position)
        )
        return self._dropped(self.encode(tokens, mask), random), _normal(shape, random)

    def _adversarial(
        self, batch: Batch, position: int, progress: float, random: torch.Generator
    ) -> StepResult:
        config, networks = self.config, self.networks
        d, g = networks.discriminator, networks.generator
        alone = config.discriminator_head_start if self.anchor is not None else 0.0
        own = max(0.0, progress - alone) / (1 - alone)  # of G's part of the stage
        lr = config.adversarial_lr
        beta = 0.9 + 0.09 * min(1.0, 2 * progress)
        _set_lr(self.optimizers["generator"], lr * _warm_cosine(own, 0.01, 0.25), (0.0, beta))
        _set_lr(
            self.optimizers["discriminator"],
            lr * config.discriminator_lr * _warm_cosine(progress, 0.01, 0.25),
            (0.0, beta),
        )
        strength = config.augment * min(1.0, 4 * progress)
        text = self.encode(batch.tokens, batch.mask)
        shown = self._dropped(text, random)
        figures: dict[str, Tensor | float] = {}
        noise = _normal(batch.images.shape, random)
        with torch.set_grad_enabled(progress >= alone):
            fake = one_step(g, noise, shown)
        undo = _undo(self.optimizers["discriminator"])  # until G's half is known to be finite
        for turn in range(config.discriminator_steps):
            if turn:
                with torch.no_grad():
                    other = one_step(g, _normal(batch.images.shape, random), shown)
            else:
                other = fake.detach()
            d_figures = self._discriminator_turn(batch, other, text, strength, progress, random)
            if d_figures is None:
                undo()
                return StepResult({"d_loss": math.nan}, skipped=True)
            figures |= d_figures
        if progress < alone:  # a D that knows nothing yet would only spoil what G has learned
            self.images += len(batch.text)
            return StepResult(figures)
        d.requires_grad_(requires_grad=False)
        networks.image_encoder.requires_grad_(requires_grad=False)
        seen = self._seen(fake, strength, random)
        judged = d(seen)
        fake_logits = d.logits(judged.features, text.text_features)
        with torch.no_grad():
            real_logits = d.logits(
                d(self._seen(batch.images, strength, random)).features, text.text_features
            )
        if config.loss == "log":
            game = losses.log_g_loss(fake_logits)
        else:
            game = losses.relativistic_g_loss(real_logits, fake_logits)
        loss = game
        weight = config.alignment_weight * min(1.0, 20 * own)
        if weight:
            image_features = networks.image_encoder(seen)
            if config.alignment == "squared":
                alignment = losses.squared_distance_loss(image_features, text.text_features)
            else:
                scale = networks.image_encoder.logit_scale.detach()
                same, text_features = _same(batch.text), distributed.gather(text.text_features)
                alignment = losses.contrastive_loss(
                    distributed.gather(image_features), text_features, scale, same
                )
                alignment = alignment + losses.contrastive_loss(
                    distributed.gather(judged.image_features), text_features, scale, same
                )
            loss = loss + weight * alignment
            figures["alignment_loss"] = alignment.detach()
        if self.anchor is not None:  # a G from nothing has more to learn first
            likeness, parts = self._likeness(fake, batch.images)
            loss = loss + likeness
            figures |= parts
        if self.pairs:
            apart, parts = self._apart(self.pairs.pick(random), random, position % 2)
            loss = loss + apart
            figures |= parts
        elif self.anchor is not None and config.anchor_weight:
            pull = 0.005 + (config.anchor_weight - 0.005) * _cosine(own)
            with torch.no_grad():
                start = one_step(self.anchor, noise, shown)
            anchor_loss = (fake - start).square().mean()
            loss = loss + pull * anchor_loss
            figures["anchor_loss"] = anchor_loss.detach()
        found = self._descend(self.optimizers["generator"], loss, None, "_g")
        d.requires_grad_(requires_grad=True)
        networks.image_encoder.requires_grad_(requires_grad=True)
        if found is None:
            undo()
            return StepResult({"g_loss": math.nan}, skipped=True)
        self._averaged(len(batch.text), ADVERSARIAL_SHARE)
        figures |= {"g_loss": game.detach(), **found}
        return StepResult(figures)

    def _likeness(self, fake: Tensor, real: Tensor) -> tuple[Tensor | float, dict[str, Tensor]]:
        """How far statistics of drawn pictures are from real ones', weighed, and the parts of that."""
        config, fold = self.config, self.networks.config.fold
        whole: Tensor | float = 0.0
        figures: dict[str, Tensor] = {}
        if config.pattern_weight:
            powers = (distributed.gather(losses.pattern_power(x, fold)) for x in (fake, real))
            figures["pattern_loss"] = pattern = losses.pattern_loss(*powers)
            whole = whole + config.pattern_weight * pattern
        if config.edge_weight:
            energies = (distributed.gather(losses.edge_energy(x)) for x in (fake, real))
            figures["edge_loss"] = edge = losses.edge_loss(*energies)
            whole = whole + config.edge_weight * edge
        return whole, {name: value.detach() for name, value in figures.items()}

    def _discriminator_turn(
        self,
        batch: Batch,
        fake: Tensor,
        text: TextEncoding,
        strength: float,
        progress: float,
        random: torch.Generator,
    ) -> dict[str, Tensor | float] | None:
        """One step of D; None where a number is not finite."""
        config, d = self.config, self.networks.discriminator
        real = self._seen(batch.images, strength, random)
        fake = self._seen(fake, strength, random)
        pictures = torch.cat([real, fake])
        features = text.text_features
        gamma = self.gamma * (0.1 + 0.9 * _cosine(progress))
        due = gamma > 0 and self.images // max(len(batch.text), 1) % config.penalty_every == 0
        exact = due and config.penalty == "exact"
        if exact:
            pictures.requires_grad_()
        judged = d(pictures)
        phi_real, phi_fake = judged.features.chunk(2)
        real_logits, fake_logits = d.logits(phi_real, features), d.logits(phi_fake, features)
        game = (losses.log_d_loss if config.loss == "log" else losses.relativistic_d_loss)(
            real_logits, fake_logits
        )
        loss = game
        figures: dict[str, Tensor | float] = {"d_loss": game.detach()}
        if config.mismatch_weight:
            other = _another(batch.text)
            mine = other[distributed.share(len(other))]
            mismatched = d.logits(phi_real, distributed.gather(features)[mine])
            differs = batch.text[other] != batch.text
            if bool(differs.any()):
                loss = loss + config.mismatch_weight * losses.mismatch_loss(
                    distributed.gather(real_logits)[differs],
                    distributed.gather(mismatched)[differs],
                )
            figures["mismatch_gap"] = (real_logits - mismatched).detach().mean()
        if config.alignment == "contrastive" and config.discriminator_alignment_weight:
            scale = self.networks.image_encoder.logit_scale.detach()
            loss = loss + config.discriminator_alignment_weight * losses.contrastive_loss(
                distributed.gather(judged.image_features[: len(real)]),
                distributed.gather(features),
                scale,
                _same(batch.text),
            )
        if due:
            both = torch.cat([real_logits, fake_logits])
            if exact:
                squares = losses.exact_penalty(both, pictures)
            else:
                # for the real and the generated half of each process the numbers that one process would draw
                noise = distributed.normal(random, 2, *real.shape, dim=1).flatten(0, 1)
                moved = d(pictures + SIGMA * noise).features
                squares = losses.finite_penalty(both, d.logits(moved, features.repeat(2, 1)), SIGMA)
            r1, r2 = (part.mean() for part in squares.chunk(2))
            penalty = gamma / 2 * config.penalty_every * (r1 + r2 if config.r2 else r1)
            loss = loss + penalty
            figures |= {
                "r1": r1.detach(),
                "r2": r2.detach(),
                "penalty": penalty.detach() / config.penalty_every,
            }
        found = self._descend(self.optimizers["discriminator"], loss, None, "_d")
        if found is None:
            return None
        gap = (real_logits - fake_logits).detach()
        return figures | {
            "d_real": real_logits.detach().mean(),
            "d_fake": fake_logits.detach().mean(),
            "gap": gap.mean(),
            **found,
            "gamma": gamma,
        }

    # -- small things that steps share ----------------------------------------------------------

    @torch.no_grad()
    def encode(self, tokens: Tensor, mask: Tensor) -> TextEncoding:
        """Texts as the frozen encoder reads them: no gradient of G or D ever trains it."""
        return self.networks.text_encoder(tokens, mask)

    def _seen(self, images: Tensor, strength: float, random: torch.Generator) -> Tensor:
        """Pictures as D and E see them."""
        return random_background(augment(images, strength, random), 0.5, random)

    def _dropped(self, text: TextEncoding, random: torch.Generator) -> TextEncoding:
        """The encodings with some rows' captions replaced by the empty text."""
        rows = distributed.uniform(random, len(text.text_features)) < self.config.caption_dropout
        null = self.null(1)
        width = text.text_embeds.shape[1]
        padded = torch.zeros_like(text.text_embeds[:1])
        padded[:, : null.text_embeds.shape[1]] = null.text_embeds[:, :width]
        mask = torch.zeros_like(text.mask[:1])
        mask[:, : null.mask.shape[1]] = null.mask[:, :width]
        return TextEncoding(
            torch.where(rows[:, None, None], padded, text.text_embeds),
            torch.where(rows[:, None], null.text_features, text.text_features),
            torch.where(rows[:, None], mask, text.mask),
        )

    def _averaged(self, size: int, share: float = SHARE) -> None:
        self.images += size
        seen = self.images - self.images_before
        decay = ema_decay(size, seen, self.config.ema_images, share) if self.config.ema else 0.0
        ema_update(self.average, self.networks.generator, decay)

    def _descend(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float | None, of: str = ""
    ) -> dict[str, Tensor] | None:
        """One step down a loss, or None, with nothing changed, where a number is not finite.

        Returns the gradient's norm (`grad_norm`, with `of` behind it) and in some steps how far the weights moved:
        of each matrix as a share of its own norm, the median over all matrices (`update`, likewise).
        """
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [
            p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        mean_loss = distributed.average(parameters, loss.detach())
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
        if not math.isfinite(float(norm + mean_loss)):
            optimizer.zero_grad(set_to_none=True)
            return None
        if not self._measured:
            optimizer.step()
            return {f"grad_norm{of}": norm.detach()}
        matrices = [p for p in parameters if p.dim() > 1]
        before = [p.detach().clone() for p in matrices]
        optimizer.step()
        moved = [
            (p.detach() - was).norm() / was.norm().clamp(min=1e-6)
            for p, was in zip(matrices, before, strict=True)
        ]
        return {f"grad_norm{of}": norm.detach(), f"update{of}": torch.stack(moved).median()}

    @torch.no_grad()
    def judge(self, held_out: Batch, seen: Batch) -> dict[str, float]:
        """What D says of held-out and of training pictures, neither of them augmented: for the log.

        Returns:
            `d_val` and `d_seen`, mean logits; `d_spread`, the deviation of training pictures' logits; `dead`, the
            share of D's features that are the same for every held-out picture.
        """
        d: Discriminator = self.networks.discriminator
        features = d(held_out.images).features
        val = d.logits(features, self.encode(held_out.tokens, held_out.mask).text_features)
        dead = (features.float().std(0, correction=0) < 1e-6).float().mean()
        text = self.encode(seen.tokens, seen.mask).text_features
        known = d.logits(d(seen.images).features, text)
        return {
            "d_val": float(val.mean()),
            "d_seen": float(known.mean()),
            "d_spread": float(known.std()),
            "dead": float(dead),
        }

    def tensors(self, stage: str) -> dict[str, dict[str, Tensor]]:
        """Everything that a stage changes, by group, for a run's state."""
        groups: dict[str, dict[str, Tensor]] = {
            "networks": dict(self.networks.state_dict()),
            "average": dict(self.average.state_dict()),
        }
        if self.anchor is not None:
            groups["anchor"] = dict(self.anchor.state_dict())
        for name in ("generator", "discriminator") if stage == "adversarial" else (stage,):
            state = self.optimizers[name].state_dict()["state"]
            groups[_state_name(name, self.optimizers[name])] = {
                f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()
            }
        return groups

    def load_tensors(self, groups: dict[str, dict[str, Tensor]]) -> None:
        """The inverse of `tensors`."""
        self.networks.load_state_dict(groups["networks"])
        self.average.load_state_dict(groups["average"])
        if "anchor" in groups:
            self.anchor = copy.deepcopy(self.average)
            self.anchor.load_state_dict(groups["anchor"])
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in groups.get(_state_name(name, optimizer), {}).items():
                index, field_name = key.split(".", 1)
                state.setdefault(int(index), {})[field_name] = value
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )


def _undo(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """What puts an optimizer's parameters and its own state back to what they are now, to the last bit."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values = [p.detach().clone() for p in parameters]
    states = [
        {key: x.clone() if isinstance(x, Tensor) else x for key, x in optimizer.state[p].items()}
        if p in optimizer.state
        else None
        for p in parameters
    ]

    @torch.no_grad()
    def undo() -> None:
        for parameter, value, state in zip(parameters, values, states, strict=True):
            parameter.copy_(value)
            if state is None:
                optimizer.state.pop(parameter, None)
            else:
                optimizer.state[parameter] = dict(state)
        optimizer.zero_grad(set_to_none=True)

    return undo


def _state_name(name: str, optimizer: torch.optim.Optimizer) -> str:
    """What a stage's optimizer is called in a run's state: another kind of optimizer cannot go on from it."""
    return f"{type(optimizer).__name__.lower()}-{name}"


def _groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, object]]:
    """Weight decay for matrices, none for scales, shifts and temperatures."""
    everything = list(parameters)
    return [
        {"params": [p for p in everything if p.dim() > 1]},
        {"params": [p for p in everything if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _same(text: Tensor) -> Tensor:
    return text[:, None] == text[None, :]


def _another(text: Tensor) -> Tensor:
    """For each row the next row with another caption where there is one: int64 (b,)."""
    b = len(text)
    best = torch.arange(b, device=text.device).roll(-1)
    for shift in range(2, min(b, 8)):
        candidate = torch.arange(b, device=text.device).roll(-shift)
        best = torch.where(text[best] == text, candidate, best)
    return best


def _normal(shape: torch.Size, random: torch.Generator) -> Tensor:
    """Standard normal, fp32 (b, c, h, w), channels-last as pictures are."""
    b, c, h, w = shape
    return distributed.normal(random, b, h, w, c).permute(0, 3, 1, 2)


def _cosine(progress: float) -> float:
    """1 at the start, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def _warm_cosine(progress: float, warm: float, end: float) -> float:
    """Up from 0 over the first ``warm`` of a stage, then a cosine down to ``end``."""
    if progress < warm:
        return max(progress / warm, 0.02)
    return end + (1 - end) * _cosine((progress - warm) / (1 - warm))


def _set_lr(
    optimizer: torch.optim.Optimizer, lr: float, betas: tuple[float, float] | None = None
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
        if betas:
            group["betas"] = betas
