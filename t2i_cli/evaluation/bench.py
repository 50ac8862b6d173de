"""Pictures and captioned data -> figures: every subject against the same held-out pictures, by the same features.

Figures under different features, or at another count, do not compare: the result says which they were.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from t2i_cli.checkpoint.weights import load_tensors, save_tensors
from t2i_cli.data import CaptionedImages
from t2i_cli.data.cache import cache_folder
from t2i_cli.errors import DataError, OutputError, WeightsError
from t2i_cli.evaluation import calibration, metrics
from t2i_cli.evaluation.colours import colour_accuracy
from t2i_cli.evaluation.features import Encoder, load_encoder
from t2i_cli.evaluation.metrics import Estimate
from t2i_cli.evaluation.recognition import (
    FEWEST_CLASSES,
    RECIPE,
    Recogniser,
    concept_of,
    fit_recogniser,
    known_concepts,
)
from t2i_cli.evaluation.results import Subject
from t2i_cli.evaluation.scores import READ, SCORES
from t2i_cli.evaluation.seen import Seen, warnings_of
from t2i_cli.wording import number_of

__all__ = ["Bench", "Draw", "Progress", "Reconstruct"]

POOL = 100  # captions among which the right one is to be found
LEAST = 10  # held-out pictures below which all pictures are the reference
PROMPTS = 64  # prompts whose pictures are compared with each other
EACH = 4  # pictures of each of them
Progress = Callable[[str, int, int], None]  # (what is being done, done, total)


class Draw(Protocol):
    """A model that draws."""

    def __call__(
        self,
        prompts: Sequence[str],
        seed: int,
        progress: Callable[[int, int], None],
        attributes: Sequence[Mapping[str, str]] | None = None,
    ) -> np.ndarray:
        """Prompts, the first one's seed and what else is asked for -> pixels, uint8 (n, r, r, 3 or 4)."""
        ...


Reconstruct = Callable[[np.ndarray], np.ndarray]  # pixels uint8 (n, r, r, 3 or 4) -> the same


class Bench:
    """Data, reference and encoders that all subjects share.

    Args:
        images: captioned pictures, some of them held out.
        seen: which of them a subject was trained on, and which none was.
        where: what the data is called.
        encoder: what looks at pictures.
        texts: what compares pictures with captions; may be the same.
        scores: names of `SCORES`.
        count: pictures of each subject at most.
        seed: of whatever is drawn.
        calibrate: also measure damaged real pictures: the reference is at most half of the held-out ones.
        device: where EfficientNet-Lite0 computes.
        cache: folder of the cache; None takes T2I_CACHE or the platform's.
        tell: called with (what is being done, done, total).

    Raises:
        DataError: there are too few pictures.
        WeightsError: the network that recognises is missing or damaged.
    """

    def __init__(
        self,
        images: CaptionedImages,
        seen: Seen,
        where: str,
        encoder: Encoder,
        texts: Encoder,
        scores: tuple[str, ...],
        *,
        count: int,
        seed: int,
        calibrate: bool,
        device: str,
        cache: Path | None,
        tell: Progress,
    ) -> None:
        self.images, self.encoder, self.texts, self.scores = images, encoder, texts, scores
        self.count, self.seed, self.calibrate = count, seed, calibrate
        self.cache, self.tell = cache, tell
        self.needs = {SCORES[name].metric for name in scores}
        self.reads = bool(self.needs & READ)
        train, held_out = seen.train, seen.held_out
        least = 2 * LEAST if calibrate else LEAST
        self.has_held_out = len(held_out) >= least and len(train) > 0
        if not self.has_held_out:
            train = held_out = np.arange(len(images))
        if len(held_out) < least:
            raise DataError(
                f"{where}: {number_of(len(held_out), 'picture is', 'pictures are')} too few to measure against",
                f"give {least} or more",
            )
        draw = np.random.RandomState(seed)
        most = min(count, len(held_out) // 2) if calibrate else count
        self.train = train
        self.reference = np.sort(draw.permutation(held_out)[:most])
        self.others = draw.permutation(held_out)
        self.others = np.sort(self.others[~np.isin(self.others, self.reference)][:most])
        what = "held-out picture" if not seen.unknown else "picture"
        self.reference_note = (
            f"{number_of(len(self.reference), what)} of {where}"
            if self.has_held_out
            else f"{len(self.reference)} of all pictures of {where}"
        )
        self.warnings = warnings_of(seen, has_held_out=self.has_held_out)
        self.captions = self._captions(self.reference)
        self.real_features = self._cached(self.reference, encoder, "reference")
        self.train_features = (
            self._cached(self.train, encoder, "training pictures")
            if "memory" in self.needs
            else None
        )
        self.lite0: Encoder | None = None
        if {"kid_lite0", "fd_lite0", "recognised_5"} & {*scores}:
            self.lite0 = encoder if encoder.name == "lite0" else load_encoder("lite0", device)
            self.real_lite0 = self._cached(self.reference, self.lite0, "reference")
        self.recogniser, self.taught = self._fitted() if "recognised" in self.needs else (None, [])

    # -- subjects

    def drawn(self, name: str, draw: Draw, log: list[dict[str, Any]] | None = None) -> Subject:
        """A model: what it draws of the reference's captions.

        Args:
            name: of the subject.
            draw: the model.
            log: rows of its run's log.
        """
        attributes = self._metas(self.reference)
        pictures = draw(self.captions, self.seed, self._say(f"drawing {name}"), attributes)
        subject = Subject(name, "model", log=log or [])
        self._measure(subject, pictures, self.captions, attributes)
        if "diversity" in self.needs:
            order = np.random.RandomState(self.seed).permutation(len(self.captions))
            prompts = list(dict.fromkeys(self.captions[i] for i in order))[:PROMPTS]
            many = [prompt for prompt in prompts for _ in range(EACH)]
            again = draw(many, self.seed + 10**6, self._say(f"drawing {name} again"))
            shared = self._shared(self.texts.features(again))
            subject.scores["diversity"] = metrics.diversity(
                shared.view(len(prompts), EACH, shared.shape[1])
            )
        return self._ordered(subject)

    def pictures(self, name: str, folder: CaptionedImages) -> Subject:
        """A folder of pictures whose captions are the prompts that they were drawn from.

        Raises:
            DataError: it holds too few.
        """
        rows = np.arange(len(folder))
        if len(rows) > self.count:
            rows = np.sort(np.random.RandomState(self.seed).permutation(rows)[: self.count])
        if len(rows) < 10:
            raise DataError(
                f"{name}: {number_of(len(rows), 'picture is', 'pictures are')} too few to measure",
                "give 10 or more",
            )
        captions = [folder.captions[i][0] for i in rows]
        subject = Subject(name, "pictures")
        self._measure(subject, folder.pixels[rows], captions, [folder.attributes[i] for i in rows])
        if "diversity" in self.needs:
            subject.scores["diversity"] = self._same_caption(folder.pixels, folder.captions)
        return self._ordered(subject)

    def real(self) -> Subject:
        """What real pictures reach: other real ones for the distances, the reference for the text.

        The others are held-out pictures outside the reference; where there are too few of them, one half of the
        reference against the other half. Training pictures would not do: `own` was trained on some.
        """
        subject = Subject("real", "real")
        for encoder, features, suffix in self._lookers():
            if len(self.others) >= len(self.reference):
                reference, other = features, self._cached(self.others, encoder, "other real")
            else:
                order = np.random.RandomState(self.seed).permutation(len(self.reference))
                other, reference = (features[half] for half in np.array_split(order, 2))
            self._distances(subject, reference, other, suffix)
        features = self._cached(self.reference, self.texts, "reference")
        pictures = self.images.pixels[self.reference]
        meta = self._metas(self.reference)
        self._alignment(subject, pictures, self.captions, meta, features)
        if self.lite0 is not None:
            self._recognised(
                subject, self.real_lite0, self._concepts(self.reference), self.reference
            )
        if self.train_features is not None:
            held_out = self.real_features if self.has_held_out else None
            subject.scores["nearest"] = Estimate(1.0, 0.0, len(self.reference))
            subject.scores["copies"] = Estimate(0.01, 0.0, len(self.reference))
            if held_out is not None:
                gaps, subject.nearest = metrics.nearest(held_out, self.train_features)
                subject.distance = gaps / gaps.median()
        if "diversity" in self.needs:
            subject.scores["diversity"] = self._same_caption(
                self.images.pixels, self.images.captions
            )
        return self._ordered(subject)

    def chance(self) -> Subject:
        """What pictures reach that do not know their captions: real ones, with captions dealt anew."""
        subject = Subject("chance", "chance")
        order = np.random.RandomState(self.seed).permutation(len(self.reference))
        pool = min(POOL, len({" ".join(caption.lower().split()) for caption in self.captions}))
        if "text" in self.needs:
            shared = self._shared(self._cached(self.reference, self.texts, "reference"))
            texts = self._text_features(self.captions)
            subject.scores["retrieval"] = Estimate(1 / pool, 0.0)
            subject.scores["retrieval_5"] = Estimate(min(1.0, 5 / pool), 0.0)
            subject.scores["similarity"] = metrics.image_text_similarity(shared[order], texts)
        if "colour" in self.needs:
            pictures = self.images.pixels[self.reference[order]]
            subject.scores["colour"] = colour_accuracy(pictures, self.captions)
        if self.recogniser is not None:
            subject.scores["recognised_5"] = Estimate(5 / len(self.recogniser.concepts), 0.0)
        return self._ordered(subject)

    def damaged(self, reconstruct: Reconstruct | None = None) -> list[Subject]:
        """Other held-out pictures damaged in known ways, and right ones of another caption; as many as the reference.

        Args:
            reconstruct: an autoencoder, there and back; None where the model has none.
        """
        assert self.calibrate
        rows = self.others
        pixels = np.array(self.images.pixels[rows])
        captions, meta = self._captions(rows), self._metas(rows)
        made = dict(calibration.DAMAGES)
        if reconstruct is not None:
            made["reconstructed"] = lambda pictures, seed: reconstruct(pictures)
        found: list[Subject] = []
        for name, damage in made.items():
            self.tell(f"making pictures {name}", 0, 0)
            found.append(self._calibrated(name, damage(pixels, self.seed), captions, meta))
        ring = np.random.RandomState(self.seed + 1).permutation(len(rows))
        giver = np.empty_like(ring)
        giver[ring] = np.roll(ring, 1)  # no picture keeps its own
        dealt, dealt_meta = [captions[i] for i in giver], [meta[i] for i in giver]
        found.append(self._calibrated(calibration.ANOTHER, pixels, dealt, dealt_meta))
        return found

    # -- figures

    def _calibrated(
        self, name: str, pictures: np.ndarray, captions: list[str], meta: list[dict[str, Any]]
    ) -> Subject:
        subject = Subject(name, "calibration")
        self._measure(subject, pictures, captions, meta, self.others)
        if "diversity" in self.needs:
            subject.scores["diversity"] = self._same_caption(
                pictures, [[text] for text in captions]
            )
        return self._ordered(subject)

    def _measure(
        self,
        subject: Subject,
        pictures: np.ndarray,
        captions: list[str],
        meta: list[dict[str, Any]],
        rows: np.ndarray | None = None,
    ) -> None:
        """Every figure; ``rows`` are those of the data that the pictures are made from, if they are."""
        features = self.encoder.features(pictures, self._say(f"looking at {subject.name}"))
        self._distances(subject, self.real_features, features, "")
        if self.lite0 is not None:
            same = self.lite0 is self.encoder
            say = self._say(f"looking at {subject.name} again")
            lite0 = features if same else self.lite0.features(pictures, say)
            self._distances(subject, self.real_lite0, lite0, "_lite0")
            pairs = zip(captions, meta, strict=True)
            self._recognised(subject, lite0, [concept_of(*pair) for pair in pairs], rows)
        aligned = features if self.texts is self.encoder else self.texts.features(pictures)
        self._alignment(subject, pictures, captions, meta, aligned)
        if self.train_features is not None:
            held_out = self.real_features if self.has_held_out else None
            found = metrics.memorisation(self.train_features, held_out, features)
            subject.scores |= {"nearest": found.ratio, "copies": found.copies}
            gaps, subject.nearest = metrics.nearest(features, self.train_features)
            usual = float(gaps.median()) / max(found.ratio.value, 1e-12)
            subject.distance = gaps / usual

    def _lookers(self) -> list[tuple[Encoder, Tensor, str]]:
        """The encoders that distances are measured by, the reference's features, the suffix of the scores."""
        found = [(self.encoder, self.real_features, "")]
        return found + ([(self.lite0, self.real_lite0, "_lite0")] if self.lite0 else [])

    def _distances(self, subject: Subject, real: Tensor, fake: Tensor, suffix: str) -> None:
        self.tell(f"comparing {subject.name}", 0, 0)
        if f"kid{suffix}" in self.scores:
            subject.scores[f"kid{suffix}"] = metrics.kid(real, fake, seed=self.seed)
        if f"fd{suffix}" in self.scores:
            resamples = 10 if real.shape[1] <= 768 else 0
            subject.scores[f"fd{suffix}"] = metrics.fd(
                real, fake, seed=self.seed, resamples=resamples
            )
        if "prdc" in self.needs and not suffix:
            subject.scores |= metrics.prdc(real, fake)

    def _recognised(
        self, subject: Subject, features: Tensor, concepts: list[str], rows: np.ndarray | None
    ) -> None:
        """recognised@5; pictures that the classifier was taught are left out."""
        if "recognised" not in self.needs:
            return
        if self.recogniser is None:
            subject.scores["recognised_5"] = Estimate(math.nan)
            return
        taught = np.isin(rows, self.taught) if rows is not None else np.zeros(len(concepts), bool)
        keep = np.flatnonzero(~taught).tolist()
        hits = self.recogniser.hits(features[keep], [concepts[i] for i in keep])
        subject.scores["recognised_5"] = metrics.mean_estimate(hits)

    def _fitted(self) -> tuple[Recogniser | None, list[int]]:
        """The classifier of concepts, and the rows of the data that it was taught.

        Where no pictures are held out it is taught every second picture of a concept, so that real ones are
        left to measure it on.
        """
        assert self.lite0 is not None
        concepts, rows = self._concepts(self.train), self.train
        if not self.has_held_out:
            members: dict[str, list[int]] = defaultdict(list)
            for i, name in enumerate(concepts):
                members[name].append(i)
            kept = sorted(
                i
                for found in members.values()
                for i in (found[::2] if len(found) > 5 else found[:3])
            )
            concepts, rows = [concepts[i] for i in kept], rows[kept]
        if len(known_concepts(concepts)) < FEWEST_CLASSES:
            return None, []
        features = self._cached(rows, self.lite0, "training pictures")

        def fit() -> dict[str, Tensor]:
            self.tell("learning to recognise things", 0, 0)
            return fit_recogniser(features, concepts, self.seed).tensors

        parts = [RECIPE, self.lite0.key, str(self.seed), *concepts]
        tensors = self._kept(parts, rows, fit)
        return Recogniser(tuple(known_concepts(concepts)), tensors), rows.tolist()

    def _alignment(
        self,
        subject: Subject,
        pictures: np.ndarray,
        captions: list[str],
        meta: list[dict[str, Any]],
        features: Tensor,
    ) -> None:
        subject.pictures, subject.captions, subject.meta = pictures, captions, meta
        if "text" in self.needs:
            shared, texts = self._shared(features), self._text_features(captions)
            subject.hits = metrics.retrieval_hits(shared, texts, captions, POOL)
            subject.similarity = torch.nn.functional.cosine_similarity(shared, texts)
            subject.scores["retrieval"] = metrics.mean_estimate(subject.hits)
            subject.scores["retrieval_5"] = metrics.mean_estimate(
                metrics.retrieval_hits(shared, texts, captions, POOL, 5)
            )
            subject.scores["similarity"] = metrics.image_text_similarity(shared, texts)
        if "colour" in self.needs:
            subject.scores["colour"] = colour_accuracy(pictures, captions)

    def _same_caption(self, pixels: np.ndarray, captions: list[list[str]]) -> Estimate:
        """Diversity of two pictures with the same first caption, over such captions."""
        rows: dict[str, list[int]] = defaultdict(list)
        for i, texts in enumerate(captions):
            rows[texts[0]].append(i)
        pairs = [found[:2] for found in rows.values() if len(found) > 1][:500]
        if not pairs:
            return Estimate(math.nan)
        shared = self._shared(self.texts.features(pixels[np.array(pairs).ravel()]))
        return metrics.diversity(shared.view(len(pairs), 2, shared.shape[1]))

    # -- small things

    def _shared(self, features: Tensor) -> Tensor:
        assert self.texts.to_shared is not None
        with torch.no_grad():
            return self.texts.to_shared(features)

    def _text_features(self, captions: Sequence[str]) -> Tensor:
        assert self.texts.text_features is not None
        with torch.no_grad():
            return self.texts.text_features(captions)

    def _captions(self, rows: np.ndarray) -> list[str]:
        return [self.images.captions[i][0] for i in rows]

    def _metas(self, rows: np.ndarray) -> list[dict[str, Any]]:
        return [
            {**self.images.attributes[i], "split": self.images.splits[i] or "all"} for i in rows
        ]

    def _concepts(self, rows: np.ndarray) -> list[str]:
        return [concept_of(self.images.captions[i][0], self.images.attributes[i]) for i in rows]

    def _ordered(self, subject: Subject) -> Subject:
        """Only the scores that were asked for, in their order."""
        found = subject.scores
        subject.scores = {name: found[name] for name in self.scores if name in found}
        return subject

    def _say(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.tell(what, done, total)

    def _cached(self, rows: np.ndarray, encoder: Encoder, what: str) -> Tensor:
        """Features (n, d) of rows of the data, kept on disk under everything that they depend on."""

        def look() -> dict[str, Tensor]:
            pictures = _Rows(self.images.pixels, rows)
            return {"features": encoder.features(pictures, self._say(f"looking at {what}"))}

        return self._kept([encoder.key], rows, look)["features"]

    def _kept(
        self, parts: list[str], rows: np.ndarray, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What ``make`` makes of rows of the data, from the cache where it is there whole."""
        parts = [self.images.digest, str(self.images.pixels.shape), *parts]
        digest = hashlib.sha256(
            "\n".join(parts).encode() + rows.astype("<i8").tobytes()
        ).hexdigest()
        path = cache_folder(self.cache) / "features" / f"{digest[:32]}.safetensors"
        try:
            return load_tensors(path)[0]
        except WeightsError:
            pass
        found = make()
        try:
            save_tensors(path, found, {"format": "pt"})
        except OutputError:
            self.tell("the cache of features cannot be written", 0, 0)
        return found


class _Rows:
    """Some rows of a memory map, read as they are asked for."""

    def __init__(self, pixels: np.ndarray, rows: np.ndarray) -> None:
        self._pixels, self._rows = pixels, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._pixels[self._rows[part]]
