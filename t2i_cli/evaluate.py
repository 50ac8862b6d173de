"""A model or pictures, and captioned data -> how good they are, beside what real ones reach."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2i_cli import data
from t2i_cli.checkpoint import read_info, resolve_model
from t2i_cli.data import CaptionedImages, ReadOptions
from t2i_cli.data.listing import ARCHIVES
from t2i_cli.data.splits import read_records
from t2i_cli.errors import DataError, UsageError, visible
from t2i_cli.evaluation.bench import Bench, Progress, Reconstruct
from t2i_cli.evaluation.features import load_encoder
from t2i_cli.evaluation.results import Evaluation, Subject
from t2i_cli.evaluation.scores import METRICS, READ, SCORES
from t2i_cli.evaluation.seen import seen_by
from t2i_cli.pixels import as_images, to_pixels
from t2i_cli.runtime import Row, Runtime, open_runtime
from t2i_cli.solver import DEFAULT_GUIDANCE, DEFAULT_STEPS, MAX_STEPS

__all__ = ["EvalSettings", "evaluate"]

_TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # of pictures with their prompts
_BATCH = 32  # pictures drawn at a time; fixed, so that a picture depends on its seed alone


@dataclass(frozen=True)
class EvalSettings:
    """What to measure."""

    subjects: tuple[str, ...]  # models (file, run folder, shipped name) or folders of pictures
    data: Path  # captioned pictures, as for training
    scores: tuple[str, ...] = tuple(SCORES)
    features: str = "own"
    count: int = 5000  # pictures of each subject at most; no more than there are held-out ones
    steps: int = DEFAULT_STEPS  # of the sampler
    guidance: float = DEFAULT_GUIDANCE
    calibrate: bool = False  # also measure real pictures damaged in known ways
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
        if not 1 <= self.steps <= MAX_STEPS:
            raise UsageError(f"--steps {self.steps}: out of range", f"use 1 to {MAX_STEPS}")
        unknown = [name for name in self.scores if name not in SCORES]
        if unknown or not self.scores:
            raise UsageError(f"no such metric: {', '.join(unknown)}", "use " + ", ".join(METRICS))


def evaluate(
    settings: EvalSettings,
    progress: Progress | None = None,
    reconstruct: Reconstruct | None = None,
) -> Evaluation:
    """Measure every subject.

    Args:
        settings: what to measure.
        progress: called with (what is being done, done, total).
        reconstruct: an autoencoder, there and back, that `calibrate` measures too; None: the first model's.

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
    images = _load(settings, resolution, channels, tell, drawing=any(models.values()))
    records = {
        name: read_records(read_info(path).metadata) if path else None
        for name, path in models.items()
    }
    bench = Bench(
        images, seen_by(images, records), str(settings.data), encoder, texts, settings.scores,
        count=settings.count, seed=settings.seed, calibrate=settings.calibrate,
        device=settings.device, cache=settings.cache, tell=tell,
    )  # fmt: skip
    subjects: list[Subject] = []
    for name, path in models.items():
        if path is None:
            folder = data.load_drawn(
                name,
                resolution,
                captions=bench.reads,
                image_channels=channels,
                cache=settings.cache,
                progress=lambda done, total, name=name: tell(f"reading {name}", done, total),
            )
            subjects.append(bench.pictures(name, folder))
            bench.warnings += tuple(
                f"{visible(name, 80)}: {problem.text}"
                for problem in folder.report.problems
                if problem.kind == "left-out"
            )
        else:
            subjects.append(_model(bench, name, path, settings))
    subjects += [bench.real(), bench.chance()]
    if settings.calibrate and reconstruct is None:
        reconstruct = _reconstructs([path for path in models.values() if path], settings.device)
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
        warnings=bench.warnings,
        calibration=bench.damaged(reconstruct) if settings.calibrate else [],
        seconds=time.monotonic() - started,
    )


# --- the work ---------------------------------------------------------------------------------------


def _model(bench: Bench, name: str, path: Path, settings: EvalSettings) -> Subject:
    """A model, drawing as `t2i sample` does."""
    runtime = open_runtime(path, settings.device)
    log = _log(Path(name)) if Path(name).is_dir() else []
    return bench.drawn(name, _Drawer(runtime, settings.steps, settings.guidance), log)


def _reconstructs(paths: list[Path], device: str) -> Reconstruct | None:
    """The first model's autoencoder, there and back; None where no subject is a model."""
    if not paths:
        return None
    runtime = open_runtime(paths[0], device)

    def there_and_back(pixels: np.ndarray) -> np.ndarray:
        parts: list[np.ndarray] = []
        for start in range(0, len(pixels), _BATCH):
            some = pixels[start : start + _BATCH]
            if some.shape[-1] == 3:
                some = np.concatenate([some, np.full_like(some[..., :1], 255)], axis=-1)
            drawn = to_pixels(runtime.decode(runtime.latents(as_images(some))))
            parts.append(drawn[..., : pixels.shape[-1]])
        return np.concatenate(parts)

    return there_and_back


class _Drawer:
    """Prompts and a first seed -> pixels, uint8 (n, r, r, 3 or 4)."""

    def __init__(self, runtime: Runtime, steps: int, guidance: float) -> None:
        self.runtime, self.steps, self.guidance = runtime, steps, guidance

    def __call__(
        self,
        prompts: Sequence[str],
        seed: int,
        progress: Callable[[int, int], None],
        attributes: Sequence[Mapping[str, str]] | None = None,
    ) -> np.ndarray:
        runtime, found = self.runtime, list[np.ndarray]()
        channels = 3 if runtime.config.opaque else 4
        for start in range(0, len(prompts), _BATCH):
            rows = [
                Row(
                    runtime.encode(runtime.words.read(prompts[at]), self._places(attributes, at)),
                    seed + at,
                    steps=self.steps,
                    guidance=self.guidance,
                )
                for at in range(start, min(start + _BATCH, len(prompts)))
            ]
            images = np.stack([one.image for one in runtime.draw(rows)])
            found.append(to_pixels(images)[..., :channels])
            progress(min(start + _BATCH, len(prompts)), len(prompts))
        return np.concatenate(found)

    def _places(
        self, attributes: Sequence[Mapping[str, str]] | None, at: int
    ) -> tuple[int, ...] | None:
        """What the real picture of a caption is, as far as the model knows its values; None: the defaults."""
        if attributes is None:
            return None
        told = attributes[at]
        usual = self.runtime.default_attributes
        return tuple(
            one.index(told[one.name]) if told.get(one.name) in one.values else usual[place]
            for place, one in enumerate(self.runtime.config.attributes)
        )


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
    if path.is_file() and name.lower().endswith((*ARCHIVES, *_TABLES)):
        return None
    return resolve_model(name)


def _shape(models: list[Path], features: str) -> tuple[int, int]:
    """Channels and resolution (px) at which all are compared."""
    configs = [read_info(path).config for path in models]
    channels = min((3 if config.opaque else 4 for config in configs), default=4)
    usual = 64 if features in ("own", "lite0") else 256
    return channels, max((config.resolution for config in configs), default=usual)


def _load(
    settings: EvalSettings,
    resolution: int,
    channels: int,
    tell: Progress,
    *,
    drawing: bool,
) -> CaptionedImages:
    """The data; without captions where nothing reads them: no metric, and no model to draw from them."""
    where: dict[str, Any] = {
        "options": settings.reading,
        "image_channels": channels,
        "cache": settings.cache,
        "progress": lambda done, total: tell("reading data", done, total),
    }
    try:
        return data.load(settings.data, resolution, **where)
    except DataError:
        if drawing or {SCORES[name].metric for name in settings.scores} & READ:
            raise
        return data.load_drawn(settings.data, resolution, captions=False, drawn=False, **where)


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
