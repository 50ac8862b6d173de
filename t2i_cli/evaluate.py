"""A model or pictures, and captioned data -> how good they are, beside what real ones reach.

Every subject is measured against the same held-out pictures, with the same features, on the same
captions. Figures under different features, or at another count, do not compare: the result says
which they were.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from t2i_cli import data, metrics
from t2i_cli import report_page as page
from t2i_cli.checkpoint import (
    LoadedModel,
    load_model,
    load_state,
    read_info,
    resolve_model,
    write_atomic,
)
from t2i_cli.checkpoint.weights import load_tensors, save_tensors
from t2i_cli.data import CaptionedImages, ReadOptions
from t2i_cli.data.cache import cache_folder
from t2i_cli.encoders import Encoder, load_encoder
from t2i_cli.errors import DataError, OutputError, ThresholdError, UsageError, WeightsError
from t2i_cli.metrics import Estimate
from t2i_cli.models import encode, many_steps, one_step
from t2i_cli.noise import noise_batch
from t2i_cli.pixels import to_pixels
from t2i_cli.tokenizer import Tokenizer
from t2i_cli.wording import number_of, plain
from t2i_cli.words import Words

__all__ = [
    "METRICS",
    "SCORES",
    "Condition",
    "EvalSettings",
    "Evaluation",
    "Score",
    "Subject",
    "chosen_scores",
    "evaluate",
    "hold",
    "parse_condition",
    "report",
    "rows",
    "write_report",
]

POOL = 100  # captions among which the right one is to be found
LEAST = 100  # held-out pictures below which all pictures are the reference
PROMPTS = 64  # prompts whose pictures are compared with each other
EACH = 4  # pictures of each of them
_BATCH = 32  # pictures drawn at a time; fixed, so that a picture depends on its seed alone
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Score:
    """What a figure is called and which way is good."""

    label: str
    better: Literal["lower", "higher", "as real"]
    metric: str  # the name of --metrics that it belongs to
    meaning: str


SCORES: dict[str, Score] = {
    "kid": Score("KID", "lower", "kid", "distance to real pictures; 0: none can be seen"),
    "fid": Score("FID", "lower", "fid", "the same with Gaussians; falls with the count"),
    "precision": Score("precision", "higher", "prdc", "share of pictures that look real"),
    "recall": Score("recall", "higher", "prdc", "share of real pictures that could be made"),
    "density": Score("density", "higher", "prdc", "how deep pictures lie among real ones"),
    "coverage": Score("coverage", "higher", "prdc", "share of real pictures with one beside them"),
    "retrieval": Score("R@1 of 100", "higher", "text", "its own caption is the best of 100"),
    "retrieval_5": Score("R@5 of 100", "higher", "text", "its own caption is among the best 5"),
    "similarity": Score("similarity", "higher", "text", "cosine of a picture and its caption"),
    "diversity": Score(
        "diversity", "as real", "diversity", "distance between pictures of a prompt"
    ),
    "nearest": Score("nearest", "as real", "memory", "distance to training pictures; 0: copies"),
    "copies": Score("copies", "as real", "memory", "share nearer to one than 99% of real ones"),
    "colour": Score("colour", "higher", "colour", "the colour that the caption names"),
}
METRICS = tuple(dict.fromkeys(score.metric for score in SCORES.values()))


@dataclass(frozen=True)
class EvalSettings:
    """What to measure."""

    subjects: tuple[str, ...]  # models (file, run folder, shipped name) or folders of pictures
    data: Path  # captioned pictures, as for training
    scores: tuple[str, ...] = tuple(SCORES)
    features: str = "own"
    count: int = 5000  # pictures of each subject at most; no more than there are held-out ones
    steps: int = 0  # also measure each model's many-step sampler with so many steps; 0: not
    guidance: float = 1.0
    seed: int = 0  # first seed of the pictures, and of whatever else is drawn
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    reading: ReadOptions = field(default_factory=ReadOptions)  # how the data is read
    cache: Path | None = None  # folder of the cache; None takes T2I_CACHE or the platform's

    def __post_init__(self) -> None:
        """Raise UsageError where a setting is out of bounds."""
        if not self.subjects:
            raise UsageError("nothing to measure", "t2i eval MODEL|FOLDER DATA")
        if self.count < 10:
            raise UsageError(f"-n {self.count}: too few pictures", "use 10 or more")
        if not 0 <= self.steps <= 1000:
            raise UsageError(f"--steps {self.steps}: out of range", "use 0 to 1000")
        unknown = [name for name in self.scores if name not in SCORES]
        if unknown or not self.scores:
            raise UsageError(f"no such metric: {', '.join(unknown)}", "use " + ", ".join(METRICS))


@dataclass
class Subject:
    """One column of the table: what was measured, its figures, and its pictures."""

    name: str
    kind: Literal["model", "pictures", "real", "chance"]
    scores: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    # of each of `pictures`, n of them
    pictures: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    captions: list[str] = field(default_factory=list[str])
    meta: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    hits: Tensor = field(default_factory=lambda: torch.zeros(0))  # chance of R@1, (n,)
    similarity: Tensor = field(default_factory=lambda: torch.zeros(0))  # to its caption, (n,)
    nearest: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # of train
    distance: Tensor = field(default_factory=lambda: torch.zeros(0))  # to it, over the usual one
    log: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # of the run

    def breakdown(self, key: str) -> dict[str, dict[str, Estimate]]:
        """R@1, similarity and colour by a field of the data (style, category), most pictures first."""
        groups: dict[str, list[int]] = defaultdict(list)
        for row, meta in enumerate(self.meta):
            if isinstance(meta.get(key), str):
                groups[meta[key]].append(row)
        found: dict[str, dict[str, Estimate]] = {}
        for name, rows in sorted(groups.items(), key=lambda item: -len(item[1])):
            found[name] = {
                "retrieval": metrics.mean_estimate(self.hits[rows])
                if len(self.hits)
                else _none(len(rows)),
                "similarity": metrics.mean_estimate(self.similarity[rows])
                if len(self.similarity)
                else _none(len(rows)),
                "colour": metrics.colour_accuracy(
                    [self.pictures[row] for row in rows], [self.captions[row] for row in rows]
                ),
            }
        return found


@dataclass
class Evaluation:
    """The whole table. Subjects come first, then `real`, then `chance`."""

    subjects: list[Subject]
    scores: tuple[str, ...]  # which, in order
    features: str  # name of the encoder
    features_note: str
    text_features: str  # name of the encoder of R@k and similarity
    reference: str  # what the pictures were compared with
    count: int  # pictures of each subject at most
    data: str
    data_digest: str
    images: CaptionedImages
    train: np.ndarray  # rows of the training pictures in ``images``; `Subject.nearest` counts in it
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; figures that are not known are None."""
        return {
            "data": self.data,
            "data_digest": self.data_digest,
            "reference": self.reference,
            "count": self.count,
            "features": {
                "name": self.features,
                "note": self.features_note,
                "text": self.text_features,
                "warning": "figures under different features or counts do not compare",
            },
            "subjects": [
                {
                    "name": subject.name,
                    "kind": subject.kind,
                    "scores": {k: _plain(v) for k, v in subject.scores.items()},
                    "by": {
                        key: {
                            name: {k: _plain(v) for k, v in row.items()}
                            for name, row in subject.breakdown(key).items()
                        }
                        for key in ("style", "category", "split")
                    }
                    if len(subject.pictures)
                    else {},
                }
                for subject in self.subjects
            ],
            "seconds": round(self.seconds, 3),
        }


def evaluate(settings: EvalSettings, progress: Progress | None = None) -> Evaluation:
    """Measure every subject.

    Args:
        settings: what to measure.
        progress: called with (what is being done, done, total).

    Raises:
        DataError: the data or a folder of pictures is not valid, or holds too little.
        WeightsError: a model or an encoder is not valid.
        UsageError: a subject or the encoder does not exist.
    """
    started = time.monotonic()
    settings = dataclasses.replace(settings, device=_device(settings.device))
    tell = progress or (lambda what, done, total: None)
    encoder = load_encoder(settings.features, settings.device)
    texts = encoder if encoder.text_features else load_encoder("own", settings.device)
    models = {name: _model_path(name) for name in settings.subjects}
    channels, resolution = _shape([path for path in models.values() if path], settings.features)
    images = _load(settings.data, settings, resolution, channels, tell, "reading data")
    bench = _Bench(settings, encoder, texts, images, tell)
    subjects: list[Subject] = []
    for name, path in models.items():
        if path is None:
            folder = _load(Path(name), settings, resolution, channels, tell, f"reading {name}")
            subjects.append(bench.pictures(name, folder))
        else:
            subjects += bench.model(name, path)
    subjects += [bench.real(), bench.chance()]
    return Evaluation(
        subjects=subjects,
        scores=settings.scores,
        features=encoder.name,
        features_note=encoder.note,
        text_features=texts.name,
        reference=bench.reference_note,
        count=len(bench.reference),
        data=str(settings.data),
        data_digest=images.digest,
        images=images,
        train=bench.train,
        seconds=time.monotonic() - started,
    )


# --- conditions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """A condition of --fail-if, such as kid>0.05."""

    score: str
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a figure meets it; a figure that could not be measured does."""
        if math.isnan(value):
            return True
        above, equal = value > self.limit, value == self.limit
        return (
            (above or (equal and "=" in self.sign))
            if self.sign[0] == ">"
            else not above and (not equal or "=" in self.sign)
        )


def parse_condition(text: str) -> Condition:
    """A condition out of a text.

    Raises:
        UsageError: it is none, or names no score.

    >>> parse_condition("kid > 0.05")
    Condition(score='kid', sign='>', limit=0.05)
    """
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*", text)
    try:
        if match and match[1] in SCORES:
            return Condition(match[1], match[2], float(match[3]))
    except ValueError:
        pass
    raise UsageError(
        f"--fail-if {text}: not a condition",
        "for example 'kid>0.05'; scores: " + ", ".join(SCORES),
    )


def hold(evaluation: Evaluation, conditions: Sequence[Condition]) -> None:
    """Raise ThresholdError where a model or a folder of pictures meets a condition."""
    met = [
        f"{subject.name}: {condition.score} is {plain(round(value, 6))}, "
        f"{condition.sign} {plain(condition.limit)}"
        for condition in conditions
        for subject in evaluation.subjects
        if subject.kind in ("model", "pictures")
        and condition.holds(value := subject.scores.get(condition.score, _none()).value)
    ]
    if met:
        raise ThresholdError("; ".join(met))


def chosen_scores(names: str | None) -> tuple[str, ...]:
    """The scores that --metrics names, by metric or by score, in their order; None: all.

    Raises:
        UsageError: a name is not known.
    """
    if names is None:
        return tuple(SCORES)
    asked = {name.strip() for name in names.split(",") if name.strip()}
    unknown = sorted(asked - {*METRICS, *SCORES})
    if unknown or not asked:
        raise UsageError(f"--metrics {names}: no such metric", "use " + ", ".join(METRICS))
    return tuple(name for name, score in SCORES.items() if {name, score.metric} & asked)


# --- the work ---------------------------------------------------------------------------------------


class _Bench:
    """Data, reference and encoders that all subjects share."""

    def __init__(
        self,
        settings: EvalSettings,
        encoder: Encoder,
        texts: Encoder,
        images: CaptionedImages,
        tell: Progress,
    ) -> None:
        self.settings, self.encoder, self.texts = settings, encoder, texts
        self.images, self.tell = images, tell
        train, held_out = images.split_to_measure(0.02, 0)
        self.has_held_out = len(held_out) >= LEAST and len(train) > 0
        if not self.has_held_out:
            train = held_out = np.arange(len(images))
        if len(held_out) < 10:
            raise DataError(
                f"{settings.data}: {number_of(len(held_out), 'picture is', 'pictures are')} too few to measure against",
                "give 10 or more",
            )
        draw = np.random.RandomState(settings.seed)
        self.train = train
        self.reference = np.sort(draw.permutation(held_out)[: settings.count])
        self.others = draw.permutation(held_out)
        self.others = np.sort(self.others[~np.isin(self.others, self.reference)][: settings.count])
        count = len(self.reference)
        self.reference_note = (
            f"{number_of(count, 'held-out picture')} of {settings.data}"
            if self.has_held_out
            else f"{count} of all pictures of {settings.data}, which holds out too few"
        )
        self.captions = [images.captions[i][0] for i in self.reference]
        self.needs = {SCORES[name].metric for name in settings.scores}
        self.real_features = self._cached(self.reference, encoder, "reference")
        self.train_features = (
            self._cached(self.train, encoder, "training pictures")
            if "memory" in self.needs
            else None
        )

    # -- subjects

    def model(self, name: str, path: Path) -> list[Subject]:
        """A model in one step and, where it is asked for, in many."""
        loaded = load_model(path, self.settings.device)
        log = _log(Path(name)) if Path(name).is_dir() else []
        found: list[Subject] = []
        for steps in dict.fromkeys((0, self.settings.steps)):
            label = name if not steps else f"{name}, {steps} steps"
            if steps:
                _to_flow(loaded, Path(name))
            draw = _Drawer(loaded, steps, self.settings.guidance, self.settings.device)
            pictures = draw(self.captions, self.settings.seed, self._say(f"drawing {label}"))
            subject = Subject(label, "model", log=log if not steps else [])
            self._measure(subject, pictures, self.captions, self.reference)
            if "diversity" in self.needs:
                order = np.random.RandomState(self.settings.seed).permutation(len(self.captions))
                prompts = list(dict.fromkeys(self.captions[i] for i in order))[:PROMPTS]
                many = [prompt for prompt in prompts for _ in range(EACH)]
                again = draw(many, self.settings.seed + 10**6, self._say(f"drawing {label} again"))
                shared = self._shared(self.texts.features(again))
                subject.scores["diversity"] = metrics.diversity(
                    shared.view(len(prompts), EACH, shared.shape[1])
                )
            found.append(_ordered(subject, self.settings.scores))
        return found

    def pictures(self, name: str, folder: CaptionedImages) -> Subject:
        """A folder of pictures whose captions are the prompts that they were drawn from."""
        rows = np.arange(len(folder))
        if len(rows) > self.settings.count:
            rows = np.sort(
                np.random.RandomState(self.settings.seed).permutation(rows)[: self.settings.count]
            )
        if len(rows) < 10:
            raise DataError(
                f"{name}: {number_of(len(rows), 'picture is', 'pictures are')} too few to measure",
                "give 10 or more",
            )
        captions = [folder.captions[i][0] for i in rows]
        subject = Subject(name, "pictures")
        self._measure(
            subject, folder.pixels[rows], captions, None, [folder.attributes[i] for i in rows]
        )
        if "diversity" in self.needs:
            subject.scores["diversity"] = self._same_caption(folder.pixels, folder.captions)
        return _ordered(subject, self.settings.scores)

    def real(self) -> Subject:
        """What real pictures reach: other real ones for the distances, the reference for the text.

        The others are held-out pictures outside the reference; where there are too few of them, one half of the
        reference against the other half. Training pictures would not do: `own` was trained on some.
        """
        subject = Subject("real", "real")
        if len(self.others) >= len(self.reference):
            reference, other = (
                self.real_features,
                self._cached(self.others, self.encoder, "other real"),
            )
        else:
            order = np.random.RandomState(self.settings.seed).permutation(len(self.reference))
            other, reference = (self.real_features[half] for half in np.array_split(order, 2))
        self._distances(subject, reference, other)
        texts = self._text_features(self.captions)
        features = self._cached(self.reference, self.texts, "reference")
        pictures = self.images.pixels[self.reference]
        meta = [self._meta(i) for i in self.reference]
        self._alignment(subject, pictures, self.captions, meta, features, texts)
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
        return _ordered(subject, self.settings.scores)

    def chance(self) -> Subject:
        """What pictures reach that do not know their captions: real ones, with captions dealt anew."""
        subject = Subject("chance", "chance")
        order = np.random.RandomState(self.settings.seed).permutation(len(self.reference))
        pool = min(POOL, len({" ".join(caption.lower().split()) for caption in self.captions}))
        if "text" in self.needs:
            shared = self._shared(self._cached(self.reference, self.texts, "reference"))
            texts = self._text_features(self.captions)
            subject.scores["retrieval"] = Estimate(1 / pool, 0.0)
            subject.scores["retrieval_5"] = Estimate(min(1.0, 5 / pool), 0.0)
            subject.scores["similarity"] = metrics.image_text_similarity(shared[order], texts)
        if "colour" in self.needs:
            pictures = self.images.pixels[self.reference[order]]
            subject.scores["colour"] = metrics.colour_accuracy(pictures, self.captions)
        return _ordered(subject, self.settings.scores)

    # -- figures

    def _measure(
        self,
        subject: Subject,
        pictures: np.ndarray,
        captions: list[str],
        rows: np.ndarray | None,
        meta: list[dict[str, Any]] | None = None,
    ) -> None:
        features = self.encoder.features(pictures, self._say(f"looking at {subject.name}"))
        self._distances(subject, self.real_features, features)
        aligned = features if self.texts is self.encoder else self.texts.features(pictures)
        if meta is None and rows is not None:
            meta = [self._meta(i) for i in rows]
        self._alignment(
            subject, pictures, captions, meta or [], aligned, self._text_features(captions)
        )
        if self.train_features is not None:
            held_out = self.real_features if self.has_held_out else None
            found = metrics.memorisation(self.train_features, held_out, features)
            subject.scores |= {"nearest": found.ratio, "copies": found.copies}
            gaps, subject.nearest = metrics.nearest(features, self.train_features)
            usual = float(gaps.median()) / max(found.ratio.value, 1e-12)
            subject.distance = gaps / usual

    def _distances(self, subject: Subject, real: Tensor, fake: Tensor) -> None:
        self.tell(f"comparing {subject.name}", 0, 0)
        seed = self.settings.seed
        if "kid" in self.needs:
            subject.scores["kid"] = metrics.kid(real, fake, seed=seed)
        if "fid" in self.needs:
            subject.scores["fid"] = metrics.fid(
                real, fake, seed=seed, resamples=10 if real.shape[1] <= 768 else 0
            )
        if "prdc" in self.needs:
            subject.scores |= metrics.prdc(real, fake)

    def _alignment(
        self,
        subject: Subject,
        pictures: np.ndarray,
        captions: list[str],
        meta: list[dict[str, Any]],
        features: Tensor,
        texts: Tensor,
    ) -> None:
        subject.pictures, subject.captions, subject.meta = pictures, captions, meta
        if "text" in self.needs:
            shared = self._shared(features)
            subject.hits = metrics.retrieval_hits(shared, texts, captions, POOL)
            subject.similarity = torch.nn.functional.cosine_similarity(shared, texts)
            subject.scores["retrieval"] = metrics.mean_estimate(subject.hits)
            subject.scores["retrieval_5"] = metrics.mean_estimate(
                metrics.retrieval_hits(shared, texts, captions, POOL, 5)
            )
            subject.scores["similarity"] = metrics.image_text_similarity(shared, texts)
        if "colour" in self.needs:
            subject.scores["colour"] = metrics.colour_accuracy(pictures, captions)

    def _same_caption(self, pixels: np.ndarray, captions: list[list[str]]) -> Estimate:
        """Diversity of two pictures with the same first caption, over such captions."""
        rows: dict[str, list[int]] = defaultdict(list)
        for i, texts in enumerate(captions):
            rows[texts[0]].append(i)
        pairs = [found[:2] for found in rows.values() if len(found) > 1][:500]
        if not pairs:
            return _none()
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

    def _meta(self, row: int) -> dict[str, Any]:
        return {**self.images.attributes[row], "split": self.images.splits[row] or "all"}

    def _say(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.tell(what, done, total)

    def _cached(self, rows: np.ndarray, encoder: Encoder, what: str) -> Tensor:
        """Features of rows of the data, kept on disk under everything that they depend on."""
        parts = [self.images.digest, str(self.images.pixels.shape), encoder.key]
        digest = hashlib.sha256(
            "\n".join(parts).encode() + rows.astype("<i8").tobytes()
        ).hexdigest()
        path = cache_folder(self.settings.cache) / "features" / f"{digest[:32]}.safetensors"
        try:
            tensors, _ = load_tensors(path)
            if tensors["features"].shape[0] == len(rows):
                return tensors["features"]
        except (WeightsError, KeyError, IndexError):
            pass
        found = encoder.features(_Rows(self.images.pixels, rows), self._say(f"looking at {what}"))
        try:
            save_tensors(path, {"features": found}, {"format": "pt"})
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


class _Drawer:
    """Prompts and a first seed -> pixels, uint8 (n, r, r, c)."""

    def __init__(self, model: LoadedModel, steps: int, guidance: float, device: str) -> None:
        self.model, self.steps, self.guidance, self.device = model, steps, guidance, device
        self.tokenizer, self.words = Tokenizer(model.tokenizer), Words.from_bytes(model.words)

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], seed: int, progress: Callable[[int, int], None]
    ) -> np.ndarray:
        config, networks = self.model.config, self.model.networks
        found: list[np.ndarray] = []
        for start in range(0, len(prompts), _BATCH):
            chosen = list(prompts[start : start + _BATCH])
            rows = chosen + [""] * (_BATCH - len(chosen))
            text = self._read([self.words.read(prompt) for prompt in rows])
            null = self._read([""] * _BATCH) if self.guidance != 1 else None
            seeds = [seed + start + i for i in range(_BATCH)]
            noise = torch.from_numpy(noise_batch(seeds, config.image_channels, config.resolution))
            noise = noise.to(self.device)
            if self.steps:
                images = many_steps(
                    networks.generator, noise, text, null, self.steps, self.guidance
                )
            else:
                images = one_step(networks.generator, noise, text, null, self.guidance)
            found.append(to_pixels(images.cpu().numpy())[: len(chosen)])
            progress(min(start + _BATCH, len(prompts)), len(prompts))
        return np.concatenate(found)

    def _read(self, texts: list[str]) -> Any:
        length = self.model.config.text.context_length
        tokens, mask = self.tokenizer.batch(texts, length)
        return encode(
            self.model.networks.text_encoder,
            torch.from_numpy(tokens).to(self.device),
            torch.from_numpy(mask).to(self.device),
        )


def _to_flow(model: LoadedModel, run: Path) -> None:
    """Give a model the generator that its run's flow stage left, where the run still has it.

    Raises:
        UsageError: it was distilled, and what the adversarial stage keeps is that.
    """
    state = load_state(run) if run.is_dir() else None
    if state is None:
        return
    facts, position = (state.meta.get(name, {}) for name in ("facts", "position"))
    game = position.get("stage") == "adversarial"
    if game and facts.get("distill", 0) > 0 and not position.get("pairs"):
        raise UsageError(
            f"--steps: {run} has the generator of its flow stage no more, it went on from a distilled one",
            "measure weights that were saved after the flow, or leave --steps out",
        )
    if "anchor" in state.files:
        model.networks.generator.load_state_dict(state.files["anchor"])


def _device(name: str) -> str:
    """The device that a name means."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"--device {name}: not usable here ({str(error).splitlines()[0]})", "use auto or cpu"
        ) from error
    return name


def _model_path(name: str) -> Path | None:
    """The weights file of a subject, or None where it is a folder of pictures."""
    path = Path(name)
    if path.is_dir() and not any(
        (path / inside).is_file() for inside in ("model.safetensors", "best.safetensors", "state")
    ):
        return None
    if path.is_file() and path.suffix in (".tar", ".jsonl", ".csv", ".parquet"):
        return None
    return resolve_model(name)


def _shape(models: list[Path], features: str) -> tuple[int, int]:
    """Channels and resolution (px) at which all are compared."""
    configs = [read_info(path).config for path in models]
    channels = min((config.image_channels for config in configs), default=4)
    usual = 64 if features == "own" else 256
    return channels, max((config.resolution for config in configs), default=usual)


def _load(
    path: Path,
    settings: EvalSettings,
    resolution: int,
    channels: int,
    tell: Progress,
    what: str,
) -> CaptionedImages:
    ours = path == settings.data
    return data.load(
        path,
        resolution,
        settings.reading if ours else None,
        image_channels=channels,
        cache=settings.cache,
        progress=lambda done, total: tell(what, done, total),
    )


def _log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; torn and foreign lines are passed over."""
    rows: list[dict[str, Any]] = []
    try:
        lines = (run / "log.jsonl").read_text("utf-8", "replace").splitlines()
    except OSError:
        return rows
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _ordered(subject: Subject, names: Sequence[str]) -> Subject:
    """Only the scores that were asked for, in their order."""
    subject.scores = {name: subject.scores[name] for name in names if name in subject.scores}
    return subject


def _none(count: int = 0) -> Estimate:
    return Estimate(math.nan, math.nan, count)


def _plain(estimate: Estimate) -> dict[str, Any]:
    def known(number: float) -> float | None:
        return number if math.isfinite(number) else None

    return {
        "value": known(estimate.value),
        "low": known(estimate.low),
        "high": known(estimate.high),
        "count": estimate.count,
    }


# --- the report -------------------------------------------------------------------------------------


def report(evaluation: Evaluation) -> str:
    """The evaluation as one self-contained HTML page."""
    measured = [subject for subject in evaluation.subjects if subject.kind in ("model", "pictures")]
    real = next(subject for subject in evaluation.subjects if subject.kind == "real")
    sections = [
        page.paragraph(
            f"{evaluation.count} pictures of each, against {evaluation.reference}. Features: "
            f"{evaluation.features_note}. Text: {evaluation.text_features}."
        ),
        page.paragraph("Figures under different features or counts do not compare.", dim=True),
        page.table(["", *(subject.name for subject in evaluation.subjects), ""], rows(evaluation)),
    ]
    for subject in measured:
        sections += [page.heading(subject.name), *_gallery(subject), *_pairs(evaluation, subject)]
        for key in ("style", "category", "split"):
            reached = real.breakdown(key)
            lines: list[list[str | tuple[str, str]]] = [
                [
                    name,
                    str(row["similarity"].count),
                    *(_beside(row, reached.get(name, {}), score) for score in _BY),
                ]
                for name, row in subject.breakdown(key).items()
            ]
            if lines:
                sections += [
                    page.heading(f"By {key}", 3),
                    page.table([key, "pictures", *(SCORES[name].label for name in _BY)], lines),
                ]
        sections += _curves(subject)
    return page.page("How good: " + ", ".join(subject.name for subject in measured), sections)


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write `report` to a file, whole or not at all.

    Raises:
        OutputError: it could not be written.
    """
    write_atomic(path, report(evaluation).encode())


def rows(evaluation: Evaluation) -> list[list[str]]:
    """The table: a row a score, a column a subject, and last what the score means."""
    return [
        [
            SCORES[name].label,
            *(
                _figure(subject.scores[name]) if name in subject.scores else "–"
                for subject in evaluation.subjects
            ),
            f"{SCORES[name].meaning} ({SCORES[name].better})",
        ]
        for name in evaluation.scores
        if any(name in subject.scores for subject in evaluation.subjects)
    ]


_BY = ("retrieval", "similarity", "colour")


def _figure(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    error = f" ±{estimate.error:.2g}" if estimate.error > 0 else ""
    return f"{round(estimate.value, 4):.3g}{error}"


def _beside(
    row: dict[str, Estimate], real: dict[str, Estimate], score: str
) -> str | tuple[str, str]:
    """A figure, and in small print what real pictures reach."""
    if score not in real or math.isnan(real[score].value):
        return _figure(row[score])
    return _figure(row[score]), f"real {real[score].value:.2g}"


def _gallery(subject: Subject) -> list[str]:
    """The best, the middle and the worst pictures by their caption."""
    if not len(subject.similarity):
        return []
    order = (subject.hits.double() + 1e-3 * subject.similarity).argsort(descending=True).tolist()
    middle = len(order) // 2
    parts = {
        "Best by caption": order[:16],
        "Median": order[max(0, middle - 8) : middle + 8],
        "Worst": order[-16:][::-1],
    }
    found: list[str] = []
    for title, chosen in parts.items():
        items = [page.Card([subject.pictures[i]], subject.captions[i]) for i in chosen]
        found += [page.heading(title, 3), page.cards(items)]
    return found


def _pairs(evaluation: Evaluation, subject: Subject) -> list[str]:
    """The pictures that are nearest to a training picture, beside it."""
    if not len(subject.distance):
        return []
    nearest = subject.distance.argsort()[:16].tolist()
    items = [
        page.Card(
            [subject.pictures[i], evaluation.images.pixels[evaluation.train[subject.nearest[i]]]],
            f"{subject.captions[i]} · {float(subject.distance[i]):.2f}",
        )
        for i in nearest
    ]
    return [
        page.heading("Nearest to a training picture", 3),
        page.paragraph("Drawn, training picture, distance; 1 is usual for a real one.", dim=True),
        page.cards(items),
    ]


def _curves(subject: Subject) -> list[str]:
    """Plots of a run's log, one of each number in it."""
    passed = {"step", "stage_progress", "progress", "images", "eta_s", "time", "seconds"}
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in subject.log:
        for key, value in row.items():
            if key not in passed and isinstance(value, int | float) and "step" in row:
                curves[key].append((float(row["step"]), float(value)))
    told = [
        f"{item['signal']}: {item['text']}"
        for row in subject.log
        if isinstance(row.get("advice"), list)
        for item in row["advice"]
        if isinstance(item, dict) and {"signal", "text"} <= set(item)
    ]
    found = [page.heading("The run's log", 3), page.curve(curves)] if curves else []
    if told:
        found.append(page.heading("What it said while it trained", 3))
    return found + [page.paragraph(text) for text in dict.fromkeys(told)]
