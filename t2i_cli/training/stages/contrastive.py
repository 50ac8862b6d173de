"""Text and image encoder learn to agree: f and E end in one space, in which the generator is told what to draw."""

from __future__ import annotations

import math

import torch

from t2i_cli.training import distributed, losses
from t2i_cli.training.augmentation import augment, random_background
from t2i_cli.training.stages.base import MEASURE_EVERY, Material, Stage
from t2i_cli.training.step import (
    StepResult,
    backward,
    decayed,
    same_caption,
    set_lr,
    take,
    warm_cosine,
)

__all__ = ["Contrastive"]

MAX_NORM = 1.0  # of the gradient


class Contrastive(Stage):
    """Symmetric InfoNCE (Radford et al. 2021); a language model may teach f (`--text-encoder`)."""

    name = "contrastive"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        pair = [
            *self.networks.text_encoder.parameters(),
            *self.networks.image_encoder.parameters(),
        ]
        self.optimizers["contrastive"] = torch.optim.AdamW(
            decayed(pair),
            lr=self.config.contrastive_lr,
            betas=(0.9, 0.99),
            weight_decay=0.1,
            fused=self.device.type in ("cpu", "cuda"),
        )

    @property
    def batch_size(self) -> int:
        """Pairs a step: more than pictures elsewhere, since each is told from all others."""
        return self.config.contrastive_batch_size

    def step(self, position: int, progress: float) -> StepResult:
        """One step on a batch of pictures and captions."""
        networks, config, random = self.networks, self.config, self.random(position)
        optimizer = self.optimizers["contrastive"]
        set_lr(optimizer, config.contrastive_lr * warm_cosine(progress, 0.05, 0.02))
        batch = self.material.batches.get(self.name, position, self.batch_size)
        images = random_background(augment(batch.images, 0.3, random), 0.5, random)
        text = networks.text_encoder(batch.tokens, batch.mask)
        text_features = distributed.gather(text.text_features)
        image_features = distributed.gather(networks.image_encoder(images))
        # InfoNCE is there with the founding form too, which alone has a trivial minimum at one point
        loss = losses.contrastive_loss(
            image_features,
            text_features,
            networks.image_encoder.logit_scale,
            same_caption(batch.text),
        )
        if config.alignment == "squared":
            loss = loss + losses.squared_distance_loss(image_features, text_features)
        figures = {"contrastive_loss": loss.detach()}
        whole = loss
        if batch.lesson is not None:
            extra = networks.text_encoder(batch.lesson.tokens, batch.lesson.mask)
            student = torch.cat([text_features[batch.lesson.known], extra.text_features])
            taught = losses.relation_loss(student, batch.lesson.features)
            whole = loss + config.teacher_weight * taught
            figures["teacher_loss"] = taught.detach()
        norm = backward(optimizer, whole, MAX_NORM)
        if norm is None:
            return StepResult({"contrastive_loss": math.nan}, skipped=True)
        moved = take(optimizer, measure=position % MEASURE_EVERY == 0)
        with torch.no_grad():
            networks.image_encoder.logit_scale.clamp_(0, math.log(100))
        self.images += self.batch_size
        return StepResult(
            {
                **figures,
                "contrastive_chance": math.log(len(batch.text)),  # of features that say nothing
                "logit_scale": networks.image_encoder.logit_scale.detach().exp(),
                "grad_norm": norm,
                **moved,
            }
        )
