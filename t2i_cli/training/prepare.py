"""Before the first step: the data, the tokenizer, the words, a teacher's lessons, and the networks."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from t2i_cli import checkpoint, data
from t2i_cli.config import Attribute, ModelConfig, TrainConfig, model_config
from t2i_cli.data import splits
from t2i_cli.errors import Stopped, UsageError
from t2i_cli.folders import cache_folder
from t2i_cli.models import Networks, build
from t2i_cli.tokenizer import Tokenizer, train_tokenizer
from t2i_cli.training import changes, distributed
from t2i_cli.training.batches import Batches
from t2i_cli.training.diagnostics import Doctor, Remedies
from t2i_cli.training.events import Event, Message, StageStarted
from t2i_cli.training.preview import GRID
from t2i_cli.training.run import Run, trunk_dtype
from t2i_cli.training.stages import Material
from t2i_cli.training.stages.flow import attribute_weights
from t2i_cli.training.teacher import BUILTIN, Teacher, load_teacher, make_lessons, read_words
from t2i_cli.training.vocabulary import counted, nearest, words_of
from t2i_cli.words import Words

__all__ = [
    "be_taught",
    "find_teacher",
    "find_words",
    "make_material",
    "make_tokenizer",
    "read_data",
    "tokenizer_stage",
    "tune_again",
    "write_data",
]

TELL_EVERY = 10.0  # s between two lines on how far something has come
STYLE = "style"  # the column that is a condition where nothing is asked for
BLURRED = 1.6  # times the usual error of the autoencoder, above which its decoder is tuned
TUNED = 0.25  # share of the generator's budget that this takes
MOST_VALUES = 200  # of a column that is a condition
T = TypeVar("T")


def find_teacher(run: Run) -> None:
    """Load the language model that teaches the text encoder, where one is asked for."""
    config = run.config
    if config.text_encoder not in BUILTIN and config.teacher_weight > 0:
        run.teacher = load_teacher(
            config.text_encoder, run.device, trunk_dtype(config.precision, run.device)
        )


def read_data(run: Run) -> None:
    """Read and decode the pictures, from the cache where it has them, and split them."""
    settings, config = run.settings, run.config

    def progress(done: int, total: int) -> None:
        if settings.stop:
            raise Stopped(
                settings.stop.signum, "stopped while pictures were decoded; no step was made"
            )
        if settings.progress is not None:
            settings.progress("decoding pictures", done, total)

    run.pictures = data.load(
        settings.data,
        config.resolution,
        settings.reading,
        cache=settings.cache,
        workers=settings.workers,
        progress=progress,
    )
    sides = {sha256: side for sha256, (_, side) in run.before.items()}
    digest = _digest_of(settings.out) if run.before else ""
    run.keep_sides = run.keep_sides or (bool(sides) and digest != run.pictures.digest)
    run.learned_from, run.held_out = run.pictures.split(
        config.val, config.seed, sides if run.keep_sides else None
    )
    run.once_trained |= {one for one, side in sides.items() if side == "train"}
    run.once_trained -= {run.pictures.hashes[row] for row in run.learned_from}
    fp32 = trunk_dtype(config.precision, run.device) == torch.float32
    can = Remedies.of(config, init=run.warm, fp32=fp32)
    run.diagnostics = Doctor(len(run.learned_from), warm=run.warm, can=can)


def _digest_of(out: Path) -> str:
    """The digest of the data that a run was started or last resumed with."""
    try:
        return str(json.loads((out / "data.json").read_bytes())["digest"])
    except (OSError, ValueError, KeyError):
        return ""


def write_data(run: Run) -> None:
    """Leave in the run folder what was read, what was left out and why, and which side each picture is on."""
    pictures = run.pictures
    report = {
        "digest": pictures.digest,
        **pictures.report.to_dict(),
        "kept_sides": run.keep_sides,
        "once_trained": sorted(run.once_trained),
        "pictures": changes.rows(
            pictures.names, pictures.hashes, run.learned_from.tolist(), run.held_out.tolist()
        ),
    }
    checkpoint.write_atomic(run.out / "data.json", json.dumps(report).encode())


def tokenizer_stage(run: Run, *, resumed: bool) -> Iterator[Event]:
    """Find or make the tokenizer, the same on all processes."""
    yield StageStarted("tokenizer", 1, len(run.stages) + 1, 1.0 if resumed else 0.0)
    if run.first:
        if resumed:
            run.tokenizer = Tokenizer.load(run.out / "tokenizer.model")
        else:
            make_tokenizer(run)
    told = distributed.from_first(run.tokenizer.to_bytes() if run.first else b"")
    if not run.first:
        run.tokenizer = Tokenizer(told)
    yield Message(f"tokenizer: {run.tokenizer.vocab_size:,} pieces")


def make_tokenizer(run: Run) -> None:
    """The tokenizer of the weights that the run starts from, a given one, or one trained on the captions."""
    settings = run.settings
    if settings.init is not None:
        if settings.tokenizer is not None:
            raise UsageError("--init brings its own tokenizer", "leave --tokenizer out")
        run.tokenizer = Tokenizer(checkpoint.read_reader(settings.init)[0])
    elif settings.tokenizer is not None:
        run.tokenizer = Tokenizer.load(settings.tokenizer)
    else:
        captions = (text for row in run.learned_from for text in run.pictures.captions[row])
        run.tokenizer = train_tokenizer(captions, run.config.vocab_size)


def find_words(run: Run, *, resumed: bool) -> Iterator[Event]:
    """The captions' words and what others are read as: a resumed run's, else by the teacher and --init."""
    if resumed:
        run.words = Words.load(run.out / "words.txt")
        if run.words:
            return
    captions = [run.pictures.captions[row] for row in run.learned_from]
    near, real = dict[str, str](), list[str]()
    if run.settings.init is not None:
        near = Words.from_bytes(checkpoint.read_reader(run.settings.init)[1]).others
    if run.teacher is not None:
        texts = (text for alternatives in captions for text in alternatives)
        reading = read_words(run.teacher, texts, cache_folder(run.settings.cache))
        real, features = yield from _reading(run, run.teacher, reading, "words")
        near |= nearest(real, features, counted(captions))
    run.words = words_of(captions, near, real)
    read = sum(bool(read) for read in run.words.others.values())
    yield Message(f"words: {len(run.words.known):,} known, {read:,} more are read as one of them")


def be_taught(run: Run, teacher: Teacher) -> Iterator[Event]:
    """Let the teacher read the captions, once for this data, saying how far it is."""
    captions = (text for row in run.learned_from for text in run.pictures.captions[row])
    cache, config = cache_folder(run.settings.cache), run.config
    reading = make_lessons(teacher, captions, cache, recolour=config.recolour > 0, seed=config.seed)
    run.lessons = yield from _reading(run, teacher, reading, "captions")
    yield Message(f"{teacher.name} teaches: {len(run.lessons.texts):,} texts")


def _reading(
    run: Run, teacher: Teacher, reading: Generator[tuple[int, int], None, T], what: str
) -> Generator[Event, None, T]:
    """What comes of a teacher's reading, telling how far it is."""
    told = -math.inf
    while True:
        try:
            done, total = next(reading)
        except StopIteration as end:
            return end.value
        if time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            yield Message(
                f"{teacher.name} reads {what}, once for this data: {done:,} of {total:,} texts"
            )
        _stop_if_asked(run, "the teacher read")


def _stop_if_asked(run: Run, during: str) -> None:
    if run.settings.stop:
        raise Stopped(run.settings.stop.signum, f"stopped while {during}; go on with --resume")


def make_material(run: Run, *, resumed: bool = False) -> Iterator[Event]:
    """The networks, fresh or from given weights, and all that the stages need beside them."""
    settings, config = run.settings, run.config
    opaque = run.pictures.opaque
    attributes = _attributes(run)
    attribute_weights(config.attribute_weights, attributes)  # a slip is told before the first step
    torch.manual_seed(config.seed)
    loaded: checkpoint.LoadedModel | None = None
    if resumed and (run.out / "model.safetensors").is_file():
        # its weights come with the state; what they started from may be another model by now
        info = checkpoint.read_info(run.out / "model.safetensors")
        model, networks = info.config, build(info.config)
        attributes = model.attributes
        run.inherited = splits.read_records(info.metadata)
    elif settings.init is not None:
        loaded = checkpoint.load_model(settings.init)
        run.inherited = splits.read_records(loaded.info.metadata)
        told = loaded.info.metadata.get("t2i.reconstruction_l1", "")
        run.at.reconstruction = told if re.fullmatch(r"\d{1,6}\.\d{1,6}", told, re.ASCII) else ""
        if loaded.config.resolution != config.resolution:
            raise UsageError(
                f"--init {settings.init}: trained at {loaded.config.resolution} px, this run asks for "
                f"{config.resolution}",
                f"use --resolution {loaded.config.resolution}, or --init none",
            )
        model = _with(loaded.config, attributes, opaque)
        networks = build(model)
        _adopt(networks, loaded.networks)
    else:
        kind = "lstm" if config.text_encoder == "lstm" else "transformer"
        model = model_config(
            config.size,
            config.resolution,
            run.tokenizer.vocab_size,
            kind,
            attributes=attributes,
            opaque=opaque,
        )
        networks = build(model)
    networks.to(run.device)
    networks.set_trunk_dtype(trunk_dtype(config.precision, run.device))
    batches = Batches(
        run.pictures,
        run.learned_from,
        run.tokenizer,
        context_length=model.text.context_length,
        seed=config.seed,
        device=run.device,
        recolour=config.recolour,
        mirror=config.mirror,
        slips=config.slips,
        lessons=run.lessons,
    )
    split = f"{run.pictures.digest} {config.val} {config.seed} {config.resolution}"
    run.material = Material(
        config,
        networks,
        batches,
        split,
        run.device,
        cache_folder(settings.cache),
        progress=_progress(run),
        warm=run.warm,
    )
    if loaded is not None:
        yield from _tune_where_blurred(run)
    if settings.prompts:
        run.prompts = settings.prompts[:64]
    else:
        rows = run.held_out if len(run.held_out) >= GRID else run.learned_from
        rows = rows[np.linspace(0, len(rows) - 1, min(GRID, len(rows))).astype(int)]
        run.prompts = [run.pictures.captions[row][0] for row in rows]
    if attributes:
        named = "; ".join(
            f"{one.name}: {len(one.values)} values"
            + (f", {one.default} by default" if one.default else "")
            for one in attributes
        )
        yield Message(f"conditions beside the text: {named}")


def _tuned(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(
        config, autoencoder=TUNED * config.flow, flow=(1 - TUNED) * config.flow
    )


def tune_again(run: Run, before: dict[str, Any]) -> None:
    """Give the decoder its share in a resumed run that gave it one, asked for by the settings that it began with.

    Args:
        run: before its data is read.
        before: the facts of its state.
    """
    tuned = _tuned(run.config)
    if run.warm and all(
        before.get(name) == getattr(tuned, name) for name in ("autoencoder", "flow")
    ):
        run.share_out(tuned)


@torch.no_grad()
def _tune_where_blurred(run: Run) -> Iterator[Event]:
    """Give the decoder a share of the budget where these pictures come back worse than those it learned from."""
    config, networks = run.config, run.material.networks
    if config.autoencoder or config.objective != "flow" or not run.at.reconstruction:
        return
    usual = float(run.at.reconstruction)
    some = run.learned_from[
        np.linspace(0, len(run.learned_from) - 1, min(64, len(run.learned_from))).astype(int)
    ]
    images = run.material.batches.of(some).images
    error = float((networks.decoder(networks.encoder(images)) - images).abs().mean())
    if error <= BLURRED * usual:
        return
    run.share_out(_tuned(config))
    run.material.config = run.config
    yield Message(
        f"the shipped decoder draws these pictures less sharply (error {error:.3f}, usual {usual:.3f}): "
        f"{TUNED:.0%} of the time goes into tuning it"
    )


def _progress(run: Run) -> Any:
    def progress(what: str, done: int, total: int) -> None:
        _stop_if_asked(run, what)
        if run.settings.progress is not None:
            run.settings.progress(what, done, total)

    return progress


def _attributes(run: Run) -> tuple[Attribute, ...]:
    """The columns that are conditions, with their values in the training pictures.

    Raises:
        UsageError: no such column, one of too many values, or a default that is none of them.
    """
    settings = run.settings
    asked = (STYLE,) if settings.attributes is None else settings.attributes
    defaults = dict(told.split("=", 1) for told in settings.defaults if "=" in told)
    found: list[Attribute] = []
    for name in asked:
        told = [str(run.pictures.attributes[row].get(name, "")) for row in run.learned_from]
        values = tuple(sorted(set(filter(None, told))))
        if settings.attributes is None and (not 1 < len(values) <= MOST_VALUES):
            continue
        if not 1 <= len(values) <= MOST_VALUES:
            columns = sorted(
                {key for row in run.learned_from[:100] for key in run.pictures.attributes[row]}
            )
            raise UsageError(
                f"--attributes {name}: {len(values) or 'no'} values in the data",
                "columns there: " + (", ".join(columns) or "none"),
            )
        default = defaults.pop(name, "")
        if default and default not in values:
            raise UsageError(
                f"--default {name}={default}: no such value", "values: " + ", ".join(values)
            )
        found.append(Attribute(name, values, default))
    if defaults:
        raise UsageError(
            f"--default {next(iter(defaults))}: not a condition of this run",
            "name it with --attributes",
        )
    return tuple(found)


def _with(config: ModelConfig, attributes: tuple[Attribute, ...], opaque: bool) -> ModelConfig:
    told = {**config.to_dict(), "opaque": opaque}
    told["attributes"] = [
        {"name": one.name, "values": list(one.values), "default": one.default} for one in attributes
    ]
    return ModelConfig.from_dict(told)


@torch.no_grad()
def _adopt(networks: Networks, trained: Networks) -> None:
    """Take over trained weights; what is learned of an attribute's values is kept for values of the same name."""
    mine, theirs = networks.state_dict(), trained.state_dict()
    for name, value in mine.items():
        if "attributes." not in name:
            value.copy_(theirs[name])
    before = {one.name: at for at, one in enumerate(trained.config.attributes)}
    for kind in ("attributes", "reference_attributes"):
        tables = getattr(networks.generator, kind)
        for at, attribute in enumerate(networks.config.attributes):
            table = tables[at].weight
            if attribute.name not in before:
                nn.init.zeros_(table)
                continue
            old = trained.config.attributes[before[attribute.name]]
            known = getattr(trained.generator, kind)[before[attribute.name]].weight
            table.copy_(known[len(old.values)].expand_as(table))  # a new value begins as none
            for place, value in enumerate(attribute.values):
                if value in old.values:
                    table[place] = known[old.index(value)]
