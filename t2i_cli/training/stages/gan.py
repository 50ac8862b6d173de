"""The founding form: a generator that draws in one step, against a discriminator, with the contrastive encoders.

Both networks see decoded pictures. It is chosen by `--objective gan`, and is the control row of the comparison.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2i_cli.models import Discriminator, Generator, TextEncoding
from t2i_cli.training import distributed, losses
from t2i_cli.training.augmentation import augment, random_background
from t2i_cli.training.batches import Batch
from t2i_cli.training.events import Event
from t2i_cli.training.latents import text_features
from t2i_cli.training.stages.base import MEASURE_EVERY, Material, Stage
from t2i_cli.training.step import (
    StepResult,
    backward,
    cosine,
    different,
    normal,
    same_caption,
    set_lr,
    take,
    warm_cosine,
)

__all__ = ["Gan", "default_gamma"]

SIGMA = 0.02  # of the finite difference, in the pictures' own range of -1 to 1
AVERAGE_IMAGES = 500_000  # half-life of the average, in pictures
AVERAGE_SHARE = 0.25  # and as a share of those so far: the steps go round what they learn
JUDGED = 32  # held-out and training pictures that D judges for the log


def default_gamma(resolution: int) -> float:
    """First weight of the gradient penalties; it falls to a tenth. Larger pictures have larger gradients."""
    return {32: 0.5, 64: 2.0, 128: 17.0, 256: 150.0}[resolution]


class Gan(Stage):
    """Min-max against a projection discriminator: relativistic with R1 and R2 (R3GAN, 2024), or the log loss (2014)."""

    name = "gan"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        networks, config = self.networks, self.config
        networks.decoder.requires_grad_(requires_grad=False)  # what G's latents mean stays as it is
        self.judge = Discriminator(networks.config).to(self.device)
        self.judge.trunk_dtype = networks.generator.trunk_dtype
        self.judge.start_from(networks.image_encoder)
        self.helpers["discriminator"] = self.judge
        self.averages["generator"] = copy.deepcopy(networks.generator).requires_grad_(False)
        self.gamma = config.gamma or default_gamma(networks.config.resolution)
        fused = self.device.type in ("cpu", "cuda")
        for name, network in (("generator", networks.generator), ("discriminator", self.judge)):
            self.optimizers[name] = torch.optim.Adam(
                network.parameters(), config.gan_lr, betas=(0.0, 0.9), eps=1e-8, fused=fused
            )

    def step(self, position: int, progress: float) -> StepResult:
        """A step of D, or several, and one of G; the last of D and that of G are taken together or not at all."""
        config, random = self.config, self.random(position)
        self._schedule(progress)
        batch = self.material.batches.get(self.name, position, self.batch_size)
        strength = config.augment * min(1.0, 4 * progress)
        with torch.no_grad():
            text = self.networks.text_encoder(batch.tokens, batch.mask)
        before = self._kept() if config.discriminator_steps > 1 else None
        for _ in range(config.discriminator_steps - 1):
            with torch.no_grad():
                other = self._draw(batch, text, random)
            loss, _ = self._d_loss(batch, other, text, strength, progress, random)
            if backward(self.optimizers["discriminator"], loss) is None:
                return self._undone(before)
            take(self.optimizers["discriminator"])
        fake = self._draw(batch, text, random)
        d_loss, figures = self._d_loss(batch, fake.detach(), text, strength, progress, random)
        d_norm = backward(self.optimizers["discriminator"], d_loss)
        g_loss, g_figures = self._g_loss(batch, fake, text, strength, progress, random)
        g_norm = backward(self.optimizers["generator"], g_loss)
        if d_norm is None or g_norm is None:
            return self._undone(before)
        moved = {
            f"{key}_{name[0]}": value
            for name, optimizer in self.optimizers.items()
            for key, value in take(optimizer, measure=position % MEASURE_EVERY == 0).items()
        }
        self.averaged(self.batch_size, AVERAGE_IMAGES, AVERAGE_SHARE)
        norms = {"grad_norm_d": d_norm, "grad_norm_g": g_norm}
        return StepResult({**figures, **g_figures, **norms, **moved})

    def _kept(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """D and its optimizer as they are, to go back to."""
        return copy.deepcopy(self.judge.state_dict()), copy.deepcopy(
            self.optimizers["discriminator"].state_dict()
        )

    def _undone(self, before: tuple[dict[str, Any], dict[str, Any]] | None) -> StepResult:
        """A step that was left out: D is as it was before its first turn."""
        if before is not None:
            self.judge.load_state_dict(before[0])
            self.optimizers["discriminator"].load_state_dict(before[1])
        return StepResult({"g_loss": math.nan}, skipped=True)

    def prepare(self) -> Iterator[Event]:
        """Whiten the texts, which the generator is told what to draw by."""
        if not self.images and not self.material.reads_as_trained:
            batches = self.material.batches
            captions = sorted({batches.captions(place)[0] for place in range(len(batches))})
            features = text_features(
                captions, batches.tokens, self.networks.text_encoder, self.material.cache
            )
            for network in (self.networks.generator, self.averages["generator"]):
                assert isinstance(network, Generator)
                network.whiten(features.to(self.device).float())
        yield from ()

    def _schedule(self, progress: float) -> None:
        config = self.config
        beta = 0.9 + 0.09 * min(1.0, 2 * progress)
        lr = config.gan_lr * warm_cosine(progress, 0.01, 0.25)
        set_lr(self.optimizers["generator"], lr, (0.0, beta))
        set_lr(self.optimizers["discriminator"], lr * config.discriminator_lr, (0.0, beta))

    def _draw(self, batch: Batch, text: TextEncoding, random: torch.Generator) -> Tensor:
        """Pictures in one step from pure noise, without references: z = n - v."""
        generator, config = self.networks.generator, self.networks.config
        rows = len(batch.tokens)
        noise = normal((rows, config.latent_channels, config.cells, config.cells), random)
        dropped = distributed.uniform(random, rows) < self.config.caption_dropout
        none = [len(one.values) for one in config.attributes]
        attributes = torch.tensor([none] * rows, device=self.device).view(rows, len(none))
        condition = generator.condition(text, batch.tokens, attributes, dropped)
        level = torch.ones(rows, device=self.device)
        velocity = generator(noise, level, condition, generator.no_references(rows))
        return self.networks.decoder(noise - velocity)

    def _seen(self, images: Tensor, strength: float, random: torch.Generator) -> Tensor:
        """Pictures as D and E see them."""
        return random_background(augment(images, strength, random), 0.5, random)

    def _d_loss(
        self,
        batch: Batch,
        fake: Tensor,
        text: TextEncoding,
        strength: float,
        progress: float,
        random: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        config, judge, features = self.config, self.judge, text.text_features
        real = self._seen(batch.images, strength, random)
        pictures = torch.cat([real, self._seen(fake, strength, random)])
        exact = config.penalty == "exact"
        if exact:
            pictures.requires_grad_()
        judged = judge(pictures)
        phi_real, phi_fake = judged.features.chunk(2)
        real_logits, fake_logits = (
            judge.logits(phi_real, features),
            judge.logits(phi_fake, features),
        )
        of = losses.log_d_loss if config.loss == "log" else losses.relativistic_d_loss
        adversarial = of(real_logits, fake_logits)
        loss = adversarial
        figures: dict[str, Tensor | float] = {"d_loss": adversarial.detach()}
        if config.mismatch_weight:
            mismatch, figures["mismatch_gap"] = self._mismatch(
                batch, phi_real, real_logits, features
            )
            loss = loss + config.mismatch_weight * mismatch
        if config.alignment == "contrastive" and config.discriminator_alignment_weight:
            loss = loss + config.discriminator_alignment_weight * losses.contrastive_loss(
                distributed.gather(judged.image_features[: len(real)]),
                distributed.gather(features),
                self.networks.image_encoder.logit_scale.detach(),
                same_caption(batch.text),
            )
        gamma = self.gamma * (0.1 + 0.9 * cosine(progress))
        if gamma > 0:
            both = torch.cat([real_logits, fake_logits])
            if exact:
                squares = losses.exact_penalty(both, pictures)
            else:
                noise = distributed.normal(random, 2, *real.shape, dim=1).flatten(0, 1)
                moved = judge(pictures + SIGMA * noise).features
                moved_logits = judge.logits(moved, features.repeat(2, 1))
                squares = losses.finite_penalty(both, moved_logits, SIGMA)
            r1, r2 = (part.mean() for part in squares.chunk(2))
            penalty = gamma / 2 * (r1 + r2)
            loss = loss + penalty
            figures |= {"r1": r1.detach(), "r2": r2.detach(), "penalty": penalty.detach()}
        gap = (real_logits - fake_logits).detach().mean()
        figures |= {"d_real": real_logits.detach().mean(), "d_fake": fake_logits.detach().mean()}
        return loss, figures | {"gap": gap, "gamma": gamma}

    def _mismatch(
        self, batch: Batch, phi: Tensor, real_logits: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of pictures beside another's caption, and how far their logits are from the matched ones."""
        other = different(batch.text)
        mine = other[distributed.share(len(other))]
        mismatched = self.judge.logits(phi, distributed.gather(features)[mine])
        differs = batch.text[other] != batch.text
        gap = (real_logits - mismatched).detach().mean()
        if not bool(differs.any()):
            return real_logits.sum() * 0, gap
        matched = distributed.gather(real_logits)[differs]
        return losses.mismatch_loss(matched, distributed.gather(mismatched)[differs]), gap

    def _g_loss(
        self,
        batch: Batch,
        fake: Tensor,
        text: TextEncoding,
        strength: float,
        progress: float,
        random: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        config, judge, encoder = self.config, self.judge, self.networks.image_encoder
        features = text.text_features
        for network in (judge, encoder):
            network.requires_grad_(requires_grad=False)
        seen = self._seen(fake, strength, random)
        judged = judge(seen)
        fake_logits = judge.logits(judged.features, features)
        if config.loss == "log":
            adversarial = losses.log_g_loss(fake_logits)
        else:
            with torch.no_grad():
                real = judge(self._seen(batch.images, strength, random)).features
            adversarial = losses.relativistic_g_loss(judge.logits(real, features), fake_logits)
        loss = adversarial
        figures: dict[str, Tensor | float] = {"g_loss": adversarial.detach()}
        weight = config.alignment_weight * min(1.0, 20 * progress)
        if weight:
            image_features = encoder(seen)
            if config.alignment == "squared":
                alignment = losses.squared_distance_loss(image_features, features)
            else:
                alignment = losses.contrastive_loss(
                    distributed.gather(image_features),
                    distributed.gather(features),
                    encoder.logit_scale.detach(),
                    same_caption(batch.text),
                )
            loss = loss + weight * alignment
            figures["alignment_loss"] = alignment.detach()
        for network in (judge, encoder):
            network.requires_grad_(requires_grad=True)
        return loss, figures

    @torch.no_grad()
    def report(self, held_out: np.ndarray) -> dict[str, float]:
        """What D says of held-out and of training pictures, neither augmented; nothing where fewer than 8 are held out.

        Returns:
            `d_val` and `d_seen`, mean logits; `d_spread`, the deviation of training pictures' logits; `dead`, the
            share of D's features that are the same for every held-out picture.
        """
        if len(held_out) < 8:
            return {}
        batches = self.material.batches
        stream = np.random.RandomState(self.images % 2**32)
        val, seen = (
            batches.of(stream.permutation(rows)[:JUDGED]) for rows in (held_out, batches.indices)
        )
        features = self.judge(val.images).features
        dead = (features.float().std(0, correction=0) < 1e-6).float().mean()
        of_val, of_seen = (
            self.judge.logits(phi, self.networks.text_encoder(one.tokens, one.mask).text_features)
            for phi, one in ((features, val), (self.judge(seen.images).features, seen))
        )
        return {
            "d_val": float(of_val.mean()),
            "d_seen": float(of_seen.mean()),
            "d_spread": float(of_seen.std()),
            "dead": float(dead),
        }
