"""Prompts -> pictures: the model as an object (`load`), and the stream behind `t2i sample` (`draw`).

Image k of a prompt comes from seed + k and from nothing else: not from the batch, the order or the other prompts.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

import t2i_cli
from t2i_cli import metadata, png, prompts
from t2i_cli.errors import (
    InputError,
    OutputError,
    PartialError,
    PromptError,
    T2IError,
    UsageError,
    WeightsError,
)
from t2i_cli.folders import plain_model
from t2i_cli.metadata import Recipe
from t2i_cli.naming import DEFAULT_NAME, Fields, Template, expanded, inside, slug, write_new
from t2i_cli.noise import MAX_SEED
from t2i_cli.pixels import to_pixels
from t2i_cli.prompts import BadLine, LineReader, Request
from t2i_cli.references import COUNT, ReferenceStore
from t2i_cli.runtime import Drawn, Row, Runtime, Text, open_runtime
from t2i_cli.solver import DEFAULT_GUIDANCE, DEFAULT_STEPS, MAX_STEPS
from t2i_cli.wording import number_of, plain

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Failed",
    "Made",
    "Model",
    "Options",
    "Skipped",
    "colour",
    "draw",
    "following",
    "load",
    "recipe_of",
    "wishes_of",
]

Format = Literal["png", "webp", "jpg"]
FORMATS: dict[str, Format] = {"png": "png", "webp": "webp", "jpg": "jpg", "jpeg": "jpg"}
MAX_REFERENCES = 16  # a picture
MAX_STALE = (
    1000  # lines in a row of an endless pipe that bring nothing new, before no more are read
)
TELL_FAILURE = 10  # times that one failure is told
MAX_GRID = 1024  # pictures of one contact sheet
_COLOURS = {
    "white": "ffffff", "black": "000000", "grey": "808080", "gray": "808080", "red": "ff0000", "green": "008000",
    "blue": "0000ff", "yellow": "ffff00", "orange": "ffa500", "purple": "800080", "pink": "ffc0cb", "brown": "a52a2a",
    "cyan": "00ffff", "magenta": "ff00ff", "navy": "000080", "teal": "008080", "beige": "f5f5dc", "ivory": "fffff0",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """Pixels and what decided them."""

    pixels: np.ndarray  # uint8 (h, w, 3 or 4), straight alpha
    recipe: Recipe
    unknown_tokens: int
    cut: bool  # whether the prompt was longer than the model reads
    read_as: str = (
        ""  # the prompt as the model read it, where some of its words are none that the model knows
    )
    strange: bool = False  # whether the model knows no word of the prompt


@dataclass(frozen=True)
class Wish:
    """One picture that is asked for."""

    prompt: str
    seed: int  # 0..MAX_SEED; with best_of the first of as many
    negative: str | None = None
    guidance: float = DEFAULT_GUIDANCE
    steps: int = DEFAULT_STEPS
    truncation: float = 1.0
    attributes: tuple[tuple[str, str], ...] = ()  # names and values that are asked for
    references: int = COUNT
    best_of: int = 1
    scale: int = 1
    background: str = ""
    format: Format = "png"
    literal: bool = False  # read letter for letter

    @property
    def asked(self) -> str:
        """The attributes as a recipe holds them: `pairs_of` is the inverse."""
        return ",".join(f"{name}={value}" for name, value in self.attributes)


class Model:
    """A model that draws: `load` gives one.

    Args:
        runtime: the networks on a device.
        path: the weights file.
    """

    def __init__(self, runtime: Runtime, path: Path) -> None:
        self.runtime = runtime
        self.path = path
        # pictures to draw after, in place of the model's own references: a prompt -> its store
        self.like: Callable[[Text, int], ReferenceStore] | None = None
        self.like_hashes: tuple[str, ...] = ()  # SHA-256 of the files behind `like`

    @property
    def resolution(self) -> int:
        """Side of a picture, px."""
        return self.runtime.config.resolution

    @property
    def title(self) -> str:
        """The model's name."""
        return self.runtime.title

    def sample(
        self,
        prompt: str,
        seed: int = 0,
        *,
        guidance: float | None = None,
        steps: int | None = None,
        style: str | None = None,
        attributes: str | None = None,
        references: int | None = None,
        truncation: float = 1.0,
        negative: str | None = None,
        best_of: int = 1,
        scale: int = 1,
        background: str | None = None,
        literal: bool = False,
    ) -> Image:
        """One picture of a prompt.

        Args:
            prompt: what to draw.
            seed: 0 to 2^63 - 1; the same seed, prompt and settings give the same picture.
            guidance: how far to go from no prompt towards this one and past it: 1 is the model as trained, and takes
                half the time; None takes 3.
            steps: from noise to picture, 1 or more; None takes 8.
            style: the attribute of that name; None takes the model's default.
            attributes: others, such as "season=winter,weather=rain".
            references: training pictures that are read, 0 to 16; None takes 3.
            truncation: scale of the noise; under 1 gives plainer, safer pictures.
            negative: what to go away from, in place of the empty prompt.
            best_of: draw as many, from seed on, and keep the one that the image encoder finds nearest to the prompt.
            scale: enlarge by a whole number, without smoothing.
            background: a colour to put under transparency, such as white or #f0f0f0.
            literal: read the prompt letter for letter: words that the model does not know are not read as
                ones that it does.

        Returns:
            A PIL image, RGBA where the model draws transparency, else RGB.

        Raises:
            UsageError: a value out of range.
            PromptError: an empty prompt.
        """
        return self.sample_many(
            [prompt], [seed], guidance=guidance, steps=steps, style=style, attributes=attributes,
            references=references, truncation=truncation, negative=negative, best_of=best_of, scale=scale,
            background=background, literal=literal,
        )[0]  # fmt: skip

    def sample_many(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        *,
        guidance: float | None = None,
        steps: int | None = None,
        style: str | None = None,
        attributes: str | None = None,
        references: int | None = None,
        truncation: float = 1.0,
        negative: str | None = None,
        best_of: int = 1,
        scale: int = 1,
        background: str | None = None,
        literal: bool = False,
    ) -> list[Image]:
        """A picture for each seed, of the prompt or of the prompt at its place; otherwise as `sample`.

        Raises:
            UsageError: a value out of range, or as many prompts as seeds were expected.
            PromptError: an empty prompt.
        """
        from t2i_cli.images import to_pil

        texts = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
        if len(texts) != len(seeds):
            raise UsageError(
                f"{len(texts)} prompts and {len(seeds)} seeds",
                "give as many of one as of the other",
            )
        options = Options(
            guidance=guidance, steps=steps, style=style, attributes=attributes, references=references,
            truncation=truncation, negative=negative, best_of=best_of, scale=scale, background=background,
            literal=literal,
        )  # fmt: skip
        wishes = [
            options.wish(argument_of(text), seed) for text, seed in zip(texts, seeds, strict=True)
        ]
        return [to_pil(picture.pixels) for picture in self.pictures(wishes)]

    def pictures(self, wishes: Sequence[Wish]) -> list[Picture]:
        """The pictures of wishes, drawn in batches; each depends on its own wish alone."""
        rows = [
            self.row(wish, wish.seed + offset) for wish in wishes for offset in range(wish.best_of)
        ]
        drawn = self.runtime.draw(rows)
        pictures: list[Picture] = []
        position = 0
        for wish in wishes:
            candidates = drawn[position : position + wish.best_of]
            text = rows[position].text
            position += wish.best_of
            best = 0
            if wish.best_of > 1:
                images = np.stack([one.image for one in candidates])
                best = int(np.argmax(self.runtime.image_features(images) @ text.text_features))
            pictures.append(self.finish(wish, candidates[best], text, best))
        return pictures

    def row(self, wish: Wish, seed: int) -> Row:
        """A wish as the runtime draws it, with one of its seeds."""
        text = self.encode(wish.prompt, wish)
        negative = self.encode(wish.negative, wish) if wish.negative else None
        return Row(
            text,
            seed,
            steps=wish.steps,
            guidance=wish.guidance,
            truncation=wish.truncation,
            negative=negative,
            references=wish.references,
            store=None if self.like is None else self.like(text, wish.references),
        )

    def reads(self, text: str, wish: Wish) -> str:
        """A wish's prompt, or another text that goes with it, as the model reads it (`t2i_cli.words`)."""
        return text if wish.literal else self.runtime.words.read(text)

    def encode(self, text: str, wish: Wish) -> Text:
        """What the text encoder makes of a wish's prompt, or of another text that goes with it."""
        return self.runtime.encode(self.reads(text, wish), self.places(wish.attributes))

    def places(self, asked: Sequence[tuple[str, str]]) -> tuple[int, ...]:
        """The places of attributes' values that are asked for, the model's defaults where nothing is.

        Raises:
            UsageError: the model has no such attribute, or it has no such value.
        """
        config = self.runtime.config
        found = list(self.runtime.default_attributes)
        for name, value in asked:
            attribute = config.attribute(name)
            if attribute is None:
                known = ", ".join(one.name for one in config.attributes)
                raise UsageError(
                    f"{self.title} was trained without {name}",
                    f"it knows: {known}" if known else "train with --attributes NAME",
                )
            if value not in (*attribute.values, "none"):
                near = difflib.get_close_matches(value, attribute.values, 1, 0.0)
                raise UsageError(
                    f"{name} {value}: {self.title} knows no such {name}",
                    f"nearest: {near[0]}; all: t2i info {self.path}",
                )
            place = [one.name for one in config.attributes].index(name)
            found[place] = attribute.index(value)
        return tuple(found)

    def finish(self, wish: Wish, drawn: Drawn, text: Text, best: int) -> Picture:
        """A drawn image as a picture with its recipe."""
        recipe = replace(self.recipe(wish, best), read=drawn.references)
        pixels = finished(
            drawn.image, wish.scale, wish.background, opaque=self.runtime.config.opaque
        )
        read_as = text.prompt if text.prompt != wish.prompt else ""
        unread = not self.runtime.words.knows_any(text.prompt)
        return Picture(pixels, recipe, text.unknown_tokens, text.cut, read_as, unread)

    def recipe(self, wish: Wish, best: int = 0) -> Recipe:
        """What makes a wish's picture again; with best_of the ``best``-th seed was kept."""
        return Recipe(
            prompt=wish.prompt,
            seed=wish.seed,
            negative=wish.negative,
            guidance=wish.guidance,
            steps=wish.steps,
            attributes=wish.asked,
            references=wish.references,
            like=self.like_hashes,
            truncation=wish.truncation,
            best_of=wish.best_of,
            picked=wish.seed + best if wish.best_of > 1 else None,
            scale=wish.scale,
            background=wish.background,
            format=wish.format,
            literal=wish.literal,
            model=self.title,
            model_hash=self.runtime.hash,
            runtime=self.runtime.name,
            version=t2i_cli.__version__,
        )


def load(
    model: str | Path | None = None,
    device: str = "auto",
    *,
    announce: Callable[[str], None] | None = None,
) -> Model:
    """A model, ready to sample.

    Args:
        model: a weights file, a run folder or the name of a shipped model; None takes ``T2I_MODEL`` or the
            shipped default.
        device: auto, cpu, cuda, cuda:N or mps.
        announce: called with a line of text when something takes long (once for each kind of model).

    Raises:
        WeightsError: no such model, or a broken one.
        UsageError: no such device.
    """
    path = plain_model(model)
    if path is None:
        from t2i_cli.checkpoint import resolve_model

        path = resolve_model(model)
    runtime = open_runtime(path, device, announce=announce)
    if announce and runtime.stage in ("contrastive", "autoencoder"):
        announce(
            f"{path}: training stopped in the {runtime.stage} stage, before it learned to draw; "
            "finish it: t2i train ... --resume"
        )
    return Model(runtime, path)


def argument_of(prompt: str) -> Request:
    """The request of a prompt in code or on the command line."""
    return prompts.argument(prompt)


def finished(
    image: np.ndarray, scale: int = 1, background: str = "", *, opaque: bool = False
) -> np.ndarray:
    """An image, float32 (4, h, w) -> pixels, uint8 (h scale, w scale, 3 or 4), over a background where one is named.

    An opaque model has seen no transparency: its pictures are RGB, what little is missing of alpha on white.
    """
    pixels = to_pixels(image[None])[0]
    under = colour(background) or ((255, 255, 255) if opaque else None)
    if under is not None and pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.uint32)
        mixed = pixels[..., :3].astype(np.uint32) * alpha + np.array(under, np.uint32) * (
            255 - alpha
        )
        pixels = ((mixed + 127) // 255).astype(np.uint8)
    return pixels.repeat(scale, 0).repeat(scale, 1) if scale > 1 else pixels


def pairs_of(text: str) -> dict[str, str]:
    """NAME=VALUE,NAME=VALUE -> values by name; a piece without = belongs to the value before it.

    >>> pairs_of("season=winter, style=ink, on paper")
    {'season': 'winter', 'style': 'ink, on paper'}

    Raises:
        UsageError: no pairs.
    """
    found: dict[str, str] = {}
    last = ""
    for piece in filter(str.strip, text.split(",")):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if last and not equals:
            found[last] = f"{found[last]},{piece.rstrip()}"
        elif not equals or not name or not value:
            raise UsageError(
                f"--attributes {piece.strip()}: expected NAME=VALUE", "such as season=winter"
            )
        else:
            last, found[name] = name, value
    return found


def colour(name: str) -> tuple[int, int, int] | None:
    """A colour's name or ``#rgb`` or ``#rrggbb`` -> red, green, blue in 0..255; None for ``none`` and nothing.

    >>> colour("#f80"), colour("teal"), colour("none")
    ((255, 136, 0), (0, 128, 128), None)

    Raises:
        UsageError: no colour.
    """
    text = name.strip().lower()
    if text in ("", "none", "transparent"):
        return None
    digits = _COLOURS.get(text) or text.removeprefix("#")
    if re.fullmatch("[0-9a-f]{3}", digits):
        digits = "".join(2 * digit for digit in digits)
    if not re.fullmatch("[0-9a-f]{6}", digits):
        raise UsageError(
            f"--background {name}: no such colour",
            "use none, #rrggbb or a name: " + ", ".join(_COLOURS),
        )
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


# --- the stream


@dataclass(frozen=True)
class Options:
    """What `t2i sample` was asked for, beside the prompts."""

    out: str | None = None  # a path, a template, a folder, or - for stdout
    n: int = 1  # pictures a prompt
    seed: int = 0  # of each prompt's first picture
    guidance: float | None = None  # None: DEFAULT_GUIDANCE
    steps: int | None = None  # None: DEFAULT_STEPS
    style: str | None = None
    attributes: str | None = None  # name=value, several with commas
    references: int | None = None  # None: COUNT
    truncation: float = 1.0
    negative: str | None = None
    best_of: int = 1
    scale: int = 1
    background: str | None = None
    format: str | None = None  # None: as the path ends, else png
    overwrite: bool = False
    skip_existing: bool = False
    metadata: bool = True
    shard: tuple[int, int] | None = None  # (k, n): every n-th prompt, the k-th first; k from 1
    animation: bool = False  # the path may end in .gif
    literal: bool = False  # read prompts letter for letter

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of range."""
        bounds: dict[str, tuple[float, float]] = {
            "n": (1, prompts.MAX_N), "seed": (0, MAX_SEED), "truncation": (0, 10), "best_of": (1, 1000),
            "scale": (1, 64),
        }  # fmt: skip
        if self.guidance is not None:
            bounds["guidance"] = (0, 100)
        if self.steps is not None:
            bounds["steps"] = (1, MAX_STEPS)
        if self.references is not None:
            bounds["references"] = (0, MAX_REFERENCES)
        self.asked()
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                flag = "-n" if name == "n" else "--" + name.replace("_", "-")
                raise UsageError(
                    f"{flag} {plain(getattr(self, name))}: out of range",
                    f"use {plain(low)} to {plain(high)}",
                )
        if self.overwrite and self.skip_existing:
            raise UsageError("-f and --skip-existing exclude each other", "give one of them")
        if self.format is not None and self.format not in FORMATS:
            raise UsageError(f"--format {self.format}: no such format", "use png, webp or jpg")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError(
                f"--shard {self.shard[0]}/{self.shard[1]}: no such share", "write 1/16 to 16/16"
            )
        colour(self.background or "")
        if self.out not in (None, "-"):
            Template(self._text)
        self.format_of(self.out)

    def wish(self, request: Request, seed: int) -> Wish:
        """One picture of a request."""
        negative = self.negative if request.negative is None else request.negative
        guidance = DEFAULT_GUIDANCE if self.guidance is None else self.guidance
        best_of = self.best_of
        if seed + best_of - 1 > MAX_SEED:
            raise PromptError(
                f"seed {seed} is too near the last one, {MAX_SEED}", "take a smaller seed"
            )
        if seed < 0:
            raise UsageError(f"seed {seed}: out of range", f"use 0 to {MAX_SEED}")
        return Wish(
            request.prompt, seed, negative or None, float(guidance),
            DEFAULT_STEPS if self.steps is None else self.steps, float(self.truncation),
            self.asked(request.style), COUNT if self.references is None else self.references, best_of, self.scale,
            (self.background or "").strip().lower().removeprefix("none"), self.format_of(request.out or self.out),
            self.literal,
        )  # fmt: skip

    def asked(self, style: str | None = None) -> tuple[tuple[str, str], ...]:
        """The attributes that are asked for, each name once; a request's own style before the command's.

        Raises:
            UsageError: not name=value.
        """
        found = pairs_of(self.attributes or "")
        if chosen := self.style if style is None else style:
            found["style"] = chosen.strip()
        return tuple(sorted(found.items()))

    def format_of(self, path: str | None) -> Format:
        """The format of a file: --format, else as its name ends, else png.

        Raises:
            UsageError: a name that ends in another format.
        """
        if self.animation:
            return "png"
        ending = "" if path in (None, "-") else os.path.splitext(cast("str", path))[1][1:].lower()  # noqa: PTH122
        if self.format is not None:
            chosen = FORMATS[self.format]
            if ending in FORMATS and FORMATS[ending] != chosen:
                raise UsageError(
                    f"{path}: ends in .{ending}, but --format is {self.format}", "make them agree"
                )
            return chosen
        if ending in FORMATS:
            return FORMATS[ending]
        if ending and re.fullmatch("[a-z]{2,5}", ending):
            raise UsageError(
                f"{path}: .{ending} is not a format that is written", "use .png, .webp or .jpg"
            )
        return "png"

    @property
    def _text(self) -> str:
        """The template, a folder completed to names inside it."""
        ending = "." + FORMATS[self.format or "png"]
        if self.out is None:
            return DEFAULT_NAME + ending
        if self.out.endswith(("/", os.sep)) or os.path.isdir(self.out):  # noqa: PTH112
            return _escaped(os.path.join(self.out, "")) + DEFAULT_NAME + ending  # noqa: PTH118
        return self.out

    @property
    def template(self) -> Template:
        """Where pictures go."""
        return Template(self._text)

    @property
    def folder(self) -> str:
        """The folder that a prompt's own ``out`` is inside of."""
        text = self._text
        head = os.path.dirname(text)  # noqa: PTH120
        return "" if "{" in head.replace("{{", "") else head.replace("{{", "{").replace("}}", "}")

    def one_path(self) -> bool:
        """Whether there is room for a single picture only."""
        return self.out == "-" or not self.template.varies


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True)
class Made:
    """A picture that is written, whole, under its name."""

    path: str
    picture: Picture
    ms: float  # milliseconds from the start of its batch's work to its file, over the batch
    id: str | None = None
    data: bytes = b""  # the file, where it goes to stdout

    def row(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        recipe, pixels = self.picture.recipe, self.picture.pixels
        row: dict[str, Any] = {
            "path": self.path,
            "prompt": recipe.prompt,
            "seed": recipe.seed,
            "model": recipe.model,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "ms": round(self.ms, 2),
            "unknown_tokens": self.picture.unknown_tokens,
        }
        if self.picture.read_as:
            row["read_as"] = self.picture.read_as
        if recipe.picked is not None:
            row["picked"] = recipe.picked
        if recipe.read:
            row["references"] = list(recipe.read)
        asked = pairs_of(recipe.attributes)
        if style := asked.pop("style", ""):
            row["style"] = style
        if asked:
            row["attributes"] = ",".join(f"{name}={value}" for name, value in asked.items())
        if recipe.negative:
            row["negative"] = recipe.negative
        if recipe.to:
            row["to"] = recipe.to
        if self.id is not None:
            row["id"] = self.id
        if self.picture.cut:
            row["truncated"] = True
        return row


@dataclass(frozen=True)
class Skipped:
    """A picture that was there already (--skip-existing)."""

    path: str


@dataclass(frozen=True)
class Failed:
    """A picture, or a whole line of prompts, that came to nothing."""

    error: T2IError
    line: int = 0
    prompt: str = ""
    again: bool = False  # whether the same has been told often enough


@dataclass
class _Job:
    path: str
    wish: Wish
    request: Request


@dataclass
class _Source:
    """Requests one by one, and whether another one is there without waiting."""

    items: Iterator[Request | BadLine | None]
    ready: Callable[[], bool] = field(default=lambda: True)
    endless: Callable[[], bool] = field(default=lambda: False)  # whether it may never end


class _Repeats:
    """Counts what was told before, and the lines in a row that bring nothing else."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._fresh = False
        self.stale = 0  # lines in a row without a picture or a new failure

    def told(self, event: Skipped | Failed) -> Skipped | Failed:
        """The event, marked where the same was told often enough."""
        what = event.path if isinstance(event, Skipped) else str(event.error)
        what = re.sub(r"^line \d+: ", "", what)
        times = self._times[what] = self._times.get(what, 0) + 1
        if len(self._times) > 10_000:
            self._times.clear()
        self._fresh |= times == 1
        if isinstance(event, Failed) and times > TELL_FAILURE:
            return replace(event, again=True)
        return event

    def line(self, *, fresh: bool) -> None:
        """A line has ended."""
        self.stale = 0 if fresh or self._fresh else self.stale + 1
        self._fresh = False


def draw(
    model: Model | Callable[[], Model],
    source: Iterable[Request] | LineReader,
    options: Options,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Made | Skipped | Failed]:
    """Draw and write every picture that is asked for, and say so of each as soon as its file is in place.

    The first picture is drawn alone, so that it is there at once; from then on whatever requests are waiting are drawn
    together. A prompt that cannot be drawn costs that prompt alone. A pipe that is still written to is read no further
    after `MAX_STALE` lines that brought nothing new.

    Args:
        model: a model, or a function that loads one: it is called when there is something to draw.
        source: requests, or the lines of a file or a pipe.
        options: everything else.
        warn: called with a line of text for what is passed over in the lines.

    Raises:
        UsageError: several pictures for one plain path; nothing was written.
        OutputError: the disk is full or cannot be written to.
    """
    reader = source if isinstance(source, LineReader) else None
    items: Iterator[Any] = iter(source) if reader is None else prompts.requests(iter(reader), warn)
    feed = _Source(items)
    if reader is not None:
        feed = _Source(items, reader.ready, reader.still_written)
    if options.one_path():
        feed = _Source(iter(_at_most_one(feed.items, options)))
    jobs = _jobs(feed, options)
    loaded: Model | None = None
    size, waiting = 1, list[_Job]()
    done = False
    while not done:
        item = next(jobs, None)
        done = item is None
        if isinstance(item, _Job):
            waiting.append(item)
        elif item is not None and not isinstance(item, _Pause):
            yield item
        if waiting and (done or len(waiting) >= size or isinstance(item, _Pause)):
            if loaded is None:
                loaded = model() if callable(model) else model
            yield from _written(loaded, waiting, options)
            waiting = []
            size = min(2 * size, max(1, loaded.runtime.batch // max(1, options.best_of)))


class _Pause:
    """No request is there at once: draw what there is."""


def _jobs(feed: _Source, options: Options) -> Iterator[_Job | Skipped | Failed | _Pause]:
    template = options.template if options.out != "-" else Template(DEFAULT_NAME)
    number = 0  # of the next picture, over all shards
    position = 0  # of the prompt
    repeats = _Repeats()
    for item in feed.items:
        fresh = False
        if isinstance(item, BadLine):
            yield repeats.told(Failed(item.error, item.line))
        elif item is not None:
            if options.shard is None or position % options.shard[1] == options.shard[0] - 1:
                for event in _jobs_of(item, number, template, options):
                    fresh |= isinstance(event, _Job)
                    yield event if isinstance(event, _Job) else repeats.told(event)
            else:
                fresh = True
            position += 1
            number += item.n or options.n
        repeats.line(fresh=fresh)
        if repeats.stale >= MAX_STALE and feed.endless():
            return
        if not feed.ready():
            yield _Pause()


def _jobs_of(
    request: Request, number: int, template: Template, options: Options
) -> Iterator[_Job | Skipped | Failed]:
    first = options.seed if request.seed is None else request.seed
    for k in range(request.n or options.n):
        try:
            seed = first + k * options.best_of
            if seed > MAX_SEED:
                raise PromptError(
                    f"seed {seed} is past the last one, {MAX_SEED}", "take a smaller seed"
                )
            wish = options.wish(request, seed)
            path = _path(
                request, Fields(number + k, k, seed, request.prompt, request.id), template, options
            )
        except T2IError as error:
            yield Failed(error, request.line, request.prompt)
            return
        if options.out != "-" and not options.overwrite and os.path.lexists(path):
            yield _existing(path, request, options)
        else:
            yield _Job(path, wish, request)


def _path(request: Request, fields: Fields, template: Template, options: Options) -> str:
    if request.out is None or options.out == "-":
        return expanded(template, fields)
    try:
        name = Template(request.out).expand(fields)
    except UsageError as error:
        raise PromptError(str(error).replace("-o ", "out ", 1), error.hint) from None
    if request.n is not None and request.n > 1 and not Template(request.out).varies:
        raise PromptError(
            f"out {request.out}: {request.n} pictures for one name", "write {k} or {seed} into it"
        )
    return inside(options.folder, name)


def _existing(path: str, request: Request, options: Options) -> Skipped | Failed:
    if options.skip_existing:
        return Skipped(path)
    error = OutputError(
        f"{path}: exists", "use -f to overwrite, --skip-existing to go on, or another -o"
    )
    return Failed(error, request.line, request.prompt)


def _at_most_one(
    items: Iterator[Request | BadLine | None], options: Options
) -> list[Request | BadLine | None]:
    """Every item, where they ask for one picture together.

    Raises:
        UsageError: they ask for several.
    """
    kept: list[Request | BadLine | None] = []
    total = 0
    for item in items:
        kept.append(item)
        if isinstance(item, Request) and item.out is None:
            total += item.n or options.n
        if total > 1:
            if options.out == "-":
                raise UsageError(
                    "-o - writes one picture, and several were asked for",
                    "write -o 'out/{i:05}.png'",
                )
            head, ending = os.path.splitext(cast("str", options.out))  # noqa: PTH122
            raise UsageError(
                f"-o {options.out} is one file, and several pictures were asked for",
                f"write -o '{head}-{{i:05}}{ending or '.png'}' or "
                f"-o '{head}-{{slug}}-{{seed}}{ending or '.png'}'",
            )
    return kept


def _written(
    model: Model, jobs: Sequence[_Job], options: Options
) -> Iterator[Made | Skipped | Failed]:
    known: list[_Job] = []
    for job in jobs:
        try:
            model.places(job.wish.attributes)
            known.append(job)
        except UsageError as error:
            if job.request.style is None:  # asked for with every prompt
                raise
            refusal = PromptError(str(error), error.hint)
            yield Failed(refusal, job.request.line, job.request.prompt)
    if not known:
        return
    jobs = known
    start = time.perf_counter()
    pictures = model.pictures([job.wish for job in jobs])
    spent = (time.perf_counter() - start) / len(jobs)
    for job, picture in zip(jobs, pictures, strict=True):
        start = time.perf_counter()
        data = encoded(picture, keep=options.metadata)
        if options.out == "-":
            yield Made("-", picture, 1000 * spent, job.request.id, data)
            continue
        try:
            if not write_new(job.path, data, overwrite=options.overwrite):
                yield _existing(job.path, job.request, options)
                continue
        except OutputError as error:
            if getattr(error.__cause__, "errno", None) in _FATAL:
                raise
            yield Failed(error, job.request.line, job.request.prompt)
            continue
        yield Made(job.path, picture, 1000 * (spent + time.perf_counter() - start), job.request.id)


_FATAL = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EIO,
    getattr(errno, "EDQUOT", errno.ENOSPC),
}  # no other picture will fare better


def encoded(picture: Picture, *, keep: bool = True) -> bytes:
    """The bytes of a picture's file, its recipe inside unless ``keep`` is false."""
    recipe = picture.recipe
    height, width = picture.pixels.shape[:2]
    text = metadata.to_text(recipe, width, height) if keep else {}
    xmp = metadata.xmp(recipe if keep else None)
    if recipe.format == "png":
        return png.encode(picture.pixels, text, xmp)
    from t2i_cli import images

    return images.encode(picture.pixels, cast("Format", recipe.format), text=text, xmp=xmp)


def outcome(made: int, failures: Sequence[Failed]) -> None:
    """Raise what a command ends with.

    Raises:
        T2IError: the failure itself where nothing was made.
        PartialError: some failed, the rest is written.
    """
    if not failures:
        return
    if made:
        count = len(failures)
        raise PartialError(
            f"{number_of(count, 'prompt')} failed; "
            f"{number_of(made, 'picture is', 'pictures are')} written"
        )
    error = failures[0].error
    if len(failures) > 1:
        raise type(error)(f"all {len(failures)} failed, the first: {error}", error.hint)
    raise error


def picture_bytes(path: str) -> bytes:
    """The bytes of a picture's file, one more than the most that is decoded where it holds more.

    Raises:
        InputError: it cannot be read.
    """
    from t2i_cli import images

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(images.MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None


def recipe_of(path: str) -> Recipe:
    """The recipe inside a picture, sheet or animation that `t2i sample` made.

    Raises:
        InputError: it cannot be read, or holds no recipe.
    """
    from t2i_cli import images

    return metadata.from_text(images.read_text(picture_bytes(path), name=path).text, path)


def following(recipe: Recipe, options: Options) -> tuple[Request, Options]:
    """What makes a picture again: its request and options.

    Args:
        recipe: of the picture.
        options: where to write; what decides the picture is replaced.

    Raises:
        UsageError: the file to write ends in another format than the picture's.
    """
    moving = recipe.kind == "morph"
    if (
        moving
        and options.out not in (None, "-")
        and not options._text.endswith("." + recipe.format)
    ):
        raise UsageError(
            f"-o {options.out}: the animation is a {recipe.format}",
            f"write -o again.{recipe.format}",
        )
    again = replace(
        options,
        n=1,
        seed=recipe.seed,
        guidance=recipe.guidance,
        steps=recipe.steps,
        style=None,
        attributes=recipe.attributes or None,
        references=recipe.references,
        truncation=recipe.truncation,
        negative=recipe.negative,
        best_of=recipe.best_of,
        scale=recipe.scale,
        background=recipe.background,
        format=None if moving else recipe.format,
        animation=moving,
        literal=recipe.literal,
    )
    return Request(recipe.prompt, seed=recipe.seed), again


def wishes_of(recipe: Recipe, options: Options) -> list[Wish]:
    """The pictures of a sheet, from its recipe and the options that `following` gives."""
    wishes: list[Wish] = []
    for prompt, seed, count, negative, guidance, attributes in recipe.sheet:
        as_then = replace(options, guidance=guidance, attributes=attributes)
        request = Request(prompt, negative=negative)
        wishes += [as_then.wish(request, seed + k * recipe.best_of) for k in range(count)]
    return wishes


def same_model(model: Model, recipe: Recipe, name: str) -> None:
    """Check that a model is the one a recipe names.

    Raises:
        WeightsError: it is another one.
    """
    if recipe.model_hash and recipe.model_hash != model.runtime.hash:
        raise WeightsError(
            f"{name}: was made by {recipe.model or 'a model'} ({recipe.model_hash[:10]}), and this is "
            f"{model.title} ({model.runtime.hash[:10]})",
            "give that model with -m",
        )


def random_seed() -> int:
    """A seed that nobody chose, small enough to type."""
    return int.from_bytes(os.urandom(4), "little")


def default_out(request: Request, options: Options, ending: str) -> str:
    """The path of a sheet or an animation: ``-o``, or a name made from the prompt."""
    if options.out not in (None, "-"):
        return options.template.expand(Fields(0, 0, options.seed, request.prompt, request.id))
    return f"{slug(request.prompt)}-{options.seed}{ending}"


def stdin_is_pipe() -> bool:
    """Whether prompts may be waiting on the standard input."""
    try:
        return not sys.stdin.isatty()
    except (AttributeError, ValueError):
        return False
