"""The generator learns to turn noise into latents; it reads the text, attributes and pictures near to the caption."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from t2i_cli.config import Attribute
from t2i_cli.errors import UsageError
from t2i_cli.models import Generator, ReadReferences, TextEncoding
from t2i_cli.references import CANDIDATES, COUNT
from t2i_cli.training import distributed, losses
from t2i_cli.training.batches import seed_for
from t2i_cli.training.events import Event, Message
from t2i_cli.training.latents import (
    LatentSet,
    encode_pictures,
    make_store,
    neighbours,
    text_features,
)
from t2i_cli.training.stages.base import MEASURE_EVERY, Material, Stage
from t2i_cli.training.step import StepResult, backward, cosine, decayed, normal, set_lr, take

__all__ = ["Flow", "attribute_weights", "noise_levels"]

WARM_STEPS = 100
END = 0.05  # of the learning rate, by a cosine
MAX_NORM = 1.0  # of the gradient
LEVEL_SHIFT = (
    0.3  # of the logit-normal distribution of noise levels (Esser et al. 2024, section 3.1)
)
UNIFORM_LEVELS = (
    0.1  # share of noise levels that are uniform: a sampler's last steps meet low ones too
)
FIRST_CAPTION = 0.6  # share of rows that take a picture's first caption; the rest take any
CAPTIONS = 4  # alternatives of a picture that are used
ATTRIBUTE_DROPOUT = 0.15
REFERENCE_DROPOUT = (
    0.036  # beside the rows that lose their caption, which lose their references too
)
TEXT_NOISE = 0.005  # deviation, a component, of the noise on text features
AVERAGE_IMAGES = 60_000  # half-life of the average, in latents
AVERAGE_SHARE = 0.1  # and as a share of those so far


class Flow(Stage):
    """Flow matching over latents (Lipman et al. 2023; Liu et al. 2023), with references (Blattmann et al. 2022)."""

    name = "flow"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        generator = self.networks.generator
        self.averages["generator"] = copy.deepcopy(generator).requires_grad_(False)
        self.optimizers["generator"] = torch.optim.AdamW(
            decayed(generator.parameters()),
            lr=self.config.flow_lr,
            betas=(0.9, 0.98),
            weight_decay=0.03,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def prepare(self) -> Iterator[Event]:
        """Encode the pictures, read the captions, and look up each picture's neighbours."""
        material, config, networks = self.material, self.config, self.networks
        batches = material.batches
        self.latents = encode_pictures(
            batches.pictures,
            batches.indices,
            networks.encoder,
            digest=material.digest,
            cache=material.cache,
            device=self.device,
            seed=config.seed,
            turn=config.recolour > 0,
            mirror=config.mirror > 0,
            progress=lambda done, total: material.progress("encoding pictures", done, total),
        )
        self._collect_texts()
        self.features = text_features(
            self.texts,
            batches.tokens,
            networks.text_encoder,
            material.cache,
            progress=lambda done, total: material.progress("reading captions", done, total),
        )
        self._set_up()
        yield Message(
            f"{len(self.latents.pictures):,} latents of {len(self.store):,} pictures, "
            f"{len(self.texts):,} captions; every picture reads {COUNT} others"
        )

    def rehearse(self) -> Callable[[int], object]:
        """Steps on latents that are made up."""
        config, count = self.networks.config, min(len(self.material.batches), 512)
        shape = (count, config.latent_channels, config.cells, config.cells)
        stream = np.random.RandomState(0)
        made_up = stream.standard_normal(shape).astype(np.float16)
        places = np.arange(count, dtype=np.int32)
        self.latents = LatentSet(made_up, places, np.full(count, -1, np.int16), count)
        self._collect_texts()
        self.features = torch.randn(len(self.texts), config.text.dim).half()
        self._set_up()
        return lambda turn: self.step(turn, 0.5)

    def _collect_texts(self) -> None:
        """Every caption of every row once, and which ones are a row's."""
        batches = self.material.batches
        texts: dict[str, int] = {}
        self.caption_ids = np.empty((len(self.latents.pictures), CAPTIONS), np.int32)
        for row, place in enumerate(self.latents.pictures):
            said = self.latents.captions(row, batches.captions(int(place)))[:CAPTIONS]
            ids = [texts.setdefault(text, len(texts)) for text in said]
            self.caption_ids[row] = (ids * CAPTIONS)[:CAPTIONS]
        self.texts = list(texts)

    def _set_up(self) -> None:
        """Whiten the texts, store the originals, find every row's neighbours, weigh the rows."""
        networks, config, batches = self.networks, self.config, self.material.batches
        generator, count = networks.generator, self.latents.originals
        first = self.features[self.caption_ids[:, 0]].float()
        # a resumed stage, and one that starts from trained weights, has learned with what it began with
        if not self.images and not self.material.reads_as_trained:
            for network in (generator, self.averages["generator"]):
                assert isinstance(network, Generator)
                network.whiten(first[:count].to(self.device))
        self.attributes = batches.attributes(networks.config.attributes)[:count]
        self.store = make_store(
            self.latents, first[:count], self.attributes, generator, batches.indices[:count]
        )
        self.material.references = self.store
        self.near = neighbours(self.store, self.latents, first, generator, config.seed)
        weights = attribute_weights(config.attribute_weights, networks.config.attributes)
        of_picture = np.ones(count)
        for column, table in enumerate(weights):
            of_picture *= table[self.attributes[:, column]]
        shares = np.cumsum(of_picture[self.latents.pictures])
        self.shares = shares / shares[-1]

    def step(self, position: int, progress: float) -> StepResult:
        """One step on a batch of latents."""
        config, random = self.config, self.random(position)
        optimizer, generator = self.optimizers["generator"], self.networks.generator
        warm = min(1.0, (self.images / self.batch_size + 1) / WARM_STEPS)
        set_lr(optimizer, config.flow_lr * warm * (END + (1 - END) * cosine(progress)))
        latents, text, tokens, attributes, places = self._batch(position, random)
        level = noise_levels(len(latents), random)
        noise = normal(latents.shape, random)
        s = level[:, None, None, None]
        dropped = distributed.uniform(random, len(latents)) < config.caption_dropout
        alone = dropped | (distributed.uniform(random, len(latents)) < REFERENCE_DROPOUT)
        condition = generator.condition(text, tokens, attributes, dropped)
        read = self._read(places, alone)
        velocity = generator((1 - s) * latents + s * noise, level, condition, read)
        loss = losses.velocity_loss(velocity, latents, noise)
        norm = backward(optimizer, loss, MAX_NORM)
        if norm is None:
            return StepResult({"flow_loss": math.nan}, skipped=True)
        moved = take(optimizer, measure=position % MEASURE_EVERY == 0)
        self.averaged(self.batch_size, AVERAGE_IMAGES, AVERAGE_SHARE)
        return StepResult({"flow_loss": loss.detach(), "grad_norm": norm, **moved})

    def _batch(
        self, position: int, random: torch.Generator
    ) -> tuple[Tensor, TextEncoding, Tensor, Tensor, np.ndarray]:
        """Latents, texts, tokens, attributes and places of references, (b, k), of this process's rows of a step."""
        draw = np.random.Generator(
            np.random.Philox(key=seed_for(self.config.seed, self.name, "batch", position))
        )
        size = self.batch_size
        rows = self._rows(draw, size)[distributed.share(size)]
        pick = np.where(draw.random(size) < FIRST_CAPTION, 0, draw.integers(0, CAPTIONS, size))
        ids = self.caption_ids[rows, pick[distributed.share(size)]]
        chosen = np.argsort(draw.random((size, CANDIDATES)), 1)[distributed.share(size), :COUNT]
        places = np.take_along_axis(self.near[rows], chosen, 1)
        without = draw.random(size)[distributed.share(size)] < ATTRIBUTE_DROPOUT
        latents = torch.from_numpy(self.latents.latents[rows].astype(np.float32)).to(self.device)
        features = self.features[ids].float().to(self.device)
        jitter = distributed.normal(random, *features.shape)
        features = torch.nn.functional.normalize(features + TEXT_NOISE * jitter, dim=1)
        tokens, mask = self.material.batches.tokens([self.texts[at] for at in ids])
        text = TextEncoding(features[:, None], features, mask)
        attributes = self.attributes[self.latents.pictures[rows]].copy()
        attributes[without] = [len(one.values) for one in self.networks.config.attributes]
        return latents, text, tokens, torch.from_numpy(attributes).to(self.device), places

    def _rows(self, draw: np.random.Generator, size: int) -> np.ndarray:
        """Rows of the latent set, each as likely as its picture's attributes weigh (`attribute_weights`)."""
        return np.minimum(np.searchsorted(self.shares, draw.random(size)), len(self.shares) - 1)

    def _read(self, places: np.ndarray, alone: Tensor) -> ReadReferences:
        """What the generator reads off the pictures at some places, int (b, k); -1: there is none."""
        generator = self.networks.generator
        if not len(self.store):
            return generator.no_references(len(places))
        nobody = torch.from_numpy((places < 0).all(1)).to(self.device)
        filled = np.where(places < 0, places.max(1, keepdims=True).clip(min=0), places)
        latents = self.store.read(filled.reshape(-1))
        shaped = torch.from_numpy(latents).to(self.device).unflatten(0, filled.shape)
        attributes = torch.from_numpy(self.attributes[filled]).to(self.device)
        return generator.read(shaped, attributes, alone | nobody)


def attribute_weights(told: str, attributes: tuple[Attribute, ...]) -> list[np.ndarray]:
    """How often pictures of each value are shown, beside others: "style=silhouette:0.4,clip-art:0.4; season=winter:2".

    Returns:
        For each attribute float64 (values + 1,), 1 where nothing is said.

    Raises:
        UsageError: no such attribute or value, or a weight that is no positive number.
    """
    tables = [np.ones(len(attribute.values) + 1) for attribute in attributes]
    for clause in filter(None, map(str.strip, told.split(";"))):
        name, _, listed = clause.partition("=")
        place = next((at for at, one in enumerate(attributes) if one.name == name.strip()), None)
        if place is None:
            names = ", ".join(one.name for one in attributes) or "none"
            raise UsageError(
                f"attribute_weights: {name.strip()!r}: no such attribute", f"there are: {names}"
            )
        for pair in filter(None, map(str.strip, listed.split(","))):
            value, _, number = pair.rpartition(":")
            try:
                weight = float(number)
            except ValueError:
                weight = 0.0
            if value not in attributes[place].values or not 0 < weight < 1000:
                raise UsageError(
                    f"attribute_weights: {pair!r}: expected VALUE:WEIGHT of {name.strip()}",
                    f"for example {attributes[place].values[0]}:0.5",
                )
            tables[place][attributes[place].index(value)] = weight
    return tables


def noise_levels(rows: int, random: torch.Generator) -> Tensor:
    """Noise levels s of a step, fp32 (b,): the sigmoid of a normal, a tenth of them uniform."""
    level = torch.sigmoid(distributed.normal(random, rows) + LEVEL_SHIFT)
    kind = distributed.uniform(random, rows)
    return torch.where(kind < UNIFORM_LEVELS, kind / UNIFORM_LEVELS, level)
