"""Pictures to latents and back: L1, a perceptual distance, and a patch discriminator that keeps edges crisp."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_cli.checkpoint import load_lite0
from t2i_cli.models import PatchDiscriminator
from t2i_cli.pixels import on_background
from t2i_cli.training import distributed, losses
from t2i_cli.training.stages.base import MEASURE_EVERY, Material, Stage
from t2i_cli.training.step import StepResult, backward, normal, set_lr, take, warm_cosine

__all__ = ["Autoencoder"]

L1_WEIGHT = 4.0
ADVERSARIAL_WEIGHT = 0.1
ADVERSARIAL_FROM = 0.35  # of the stage: before, pictures are too blurred for D to teach anything
NOISE = (
    0.4  # largest deviation of the noise on latents: the decoder bears what G gets a little wrong
)
PERCEPTUAL_SIDE = 96  # px, at which the perceptual network looks
MAX_NORM = 5.0  # of the gradient
AVERAGE_SHARE = 0.1  # half-life of the decoder's average, of the pictures so far
AVERAGE_IMAGES = 10_000  # and in pictures, at most


@dataclass(frozen=True)
class _Seen:
    """Pictures as the patch discriminator and the perceptual network see them."""

    images: Tensor  # (b, 4, h, w)
    colours: Tensor  # (b, 3, h, w), on a background


class Autoencoder(Stage):
    """Esser et al. 2021 (VQGAN), section 3.1, without the codebook: latents have unit variance by a layer norm.

    With `equivariance`, in a share of the steps the latents are shrunk, turned or mirrored, and must decode to the
    picture shrunk, turned or mirrored: latents that behave as pictures are learned faster by the generator (EQ-VAE,
    Kouzelis et al. 2025, arXiv 2502.09509, equation 4).
    """

    name = "autoencoder"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        networks, config = self.networks, self.config
        self.judge = PatchDiscriminator().to(self.device)
        self.judge.trunk_dtype = networks.decoder.trunk_dtype
        self.helpers["patch_discriminator"] = self.judge
        self.averages["decoder"] = copy.deepcopy(networks.decoder).requires_grad_(False)
        self.perceptual = load_lite0(size=PERCEPTUAL_SIDE).to(self.device)
        self.target = load_lite0(size=PERCEPTUAL_SIDE).to(self.device)
        self.target.to(networks.decoder.trunk_dtype)
        # the generator of a trained model knows the latents of its encoder, so that stays and the decoder is tuned
        self.encoder_learns = not material.warm
        pair = [*networks.decoder.parameters()]
        if self.encoder_learns:
            pair += networks.encoder.parameters()
        fused = self.device.type in ("cpu", "cuda")
        self.optimizers["autoencoder"] = torch.optim.Adam(
            pair, lr=config.autoencoder_lr, betas=(0.9, 0.99), fused=fused
        )
        self.optimizers["patch_discriminator"] = torch.optim.Adam(
            self.judge.parameters(), lr=config.autoencoder_lr, betas=(0.5, 0.99), fused=fused
        )

    @property
    def batch_size(self) -> int:
        """Pictures a step: fewer than elsewhere, since more updates are worth more here."""
        return self.config.autoencoder_batch_size

    def step(self, position: int, progress: float) -> StepResult:
        """One step of encoder, decoder and patch discriminator, taken only where all gradients are finite."""
        config, random = self.config, self.random(position)
        for optimizer in self.optimizers.values():
            set_lr(optimizer, config.autoencoder_lr * warm_cosine(progress, 0.01, 0.05))
        batch = self.material.batches.get(self.name, position, self.batch_size)
        images, changed = batch.images, False
        with torch.set_grad_enabled(self.encoder_learns):
            latents = self.networks.encoder(images)
        if self._draw(random) < config.equivariance:
            latents, images = _transformed(latents, images, random)
            changed = True
        size = distributed.uniform(random, len(latents), 1, 1, 1) * NOISE
        drawn = self.networks.decoder(latents + size * normal(latents.shape, random))
        background = _backgrounds(len(images), random)
        real, fake = (_Seen(x, on_background(x, background)) for x in (images, drawn))
        l1 = (drawn - images).abs().mean()
        perceptual = self._perceptual(real, fake)
        loss = L1_WEIGHT * l1 + perceptual
        figures: dict[str, Tensor | float] = {
            "l1": l1.detach(),
            "perceptual_loss": perceptual.detach(),
        }
        adversarial = progress >= ADVERSARIAL_FROM and not changed
        if adversarial:
            self.judge.requires_grad_(requires_grad=False)
            fooled = -self.judge(fake.images, fake.colours).mean()
            self.judge.requires_grad_(requires_grad=True)
            loss = loss + ADVERSARIAL_WEIGHT * fooled
        norms = [backward(self.optimizers["autoencoder"], loss, MAX_NORM)]
        if adversarial:
            d_loss, parts = self._judged(real, fake)
            figures |= parts
            norms.append(backward(self.optimizers["patch_discriminator"], d_loss))
        if any(norm is None for norm in norms):
            return StepResult({"l1": math.nan}, skipped=True)
        moved = take(self.optimizers["autoencoder"], measure=position % MEASURE_EVERY == 0)
        if adversarial:
            take(self.optimizers["patch_discriminator"])
        self.averaged(self.batch_size, AVERAGE_IMAGES, AVERAGE_SHARE)
        assert norms[0] is not None
        return StepResult({**figures, "grad_norm": norms[0], **moved})

    def _perceptual(self, real: _Seen, fake: _Seen) -> Tensor:
        with torch.no_grad():
            wanted = self.target.feature_maps(real.colours)
        found = self.perceptual.feature_maps(fake.colours)
        return losses.perceptual_loss(found, wanted)

    def _judged(self, real: _Seen, fake: _Seen) -> tuple[Tensor, dict[str, Tensor]]:
        """The hinge loss of the patch discriminator (Lim & Ye 2017), and its parts."""
        real_logits = self.judge(real.images, real.colours)
        fake_logits = self.judge(fake.images.detach(), fake.colours.detach())
        loss = losses.hinge_d_loss(real_logits, fake_logits)
        return loss, {
            "d_loss": loss.detach(),
            "d_real": real_logits.detach().mean(),
            "d_fake": fake_logits.detach().mean(),
        }

    def _draw(self, random: torch.Generator) -> float:
        """A number in [0, 1) that all processes share."""
        return float(torch.rand((), device=random.device, generator=random))


def _backgrounds(rows: int, random: torch.Generator) -> Tensor:
    """Plain backgrounds (b, 3, 1, 1) in [-1, 1], half of them white."""
    colour = distributed.uniform(random, rows, 3, 1, 1) * 2 - 1
    white = distributed.uniform(random, rows, 1, 1, 1) < 0.5
    return torch.where(white, torch.ones_like(colour), colour)


def _transformed(latents: Tensor, images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents and images alike shrunk to half of their side or more, turned by quarters, mirrored or not."""
    cells, side = latents.shape[-1], images.shape[-1]
    least, quarter, mirrored = torch.rand(3, device=random.device, generator=random).tolist()
    to = cells // 2 + int(least * (cells // 2 + 1))

    def change(x: Tensor, size: int) -> Tensor:
        if size < x.shape[-1]:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
        x = torch.rot90(x.flip(3) if mirrored < 0.5 else x, int(quarter * 4), (2, 3))
        return x.contiguous(memory_format=torch.channels_last)

    return change(latents, to), change(images, to * side // cells)
