"""What a model is and how it is trained: small frozen dataclasses, their presets, and their strict JSON form.

`ModelConfig` travels inside every weights file; `TrainConfig` is a run's `config.toml`. Both are checked whole before
anything expensive is done with them, and a `ModelConfig` read from a stranger's file is held to the same bounds.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from t2i_cli.errors import InputError, UsageError
from t2i_cli.wording import plain

__all__ = [
    "PRESETS",
    "RESOLUTIONS",
    "ModelConfig",
    "TextEncoderConfig",
    "TrainConfig",
    "model_config",
]

RESOLUTIONS = (32, 64, 128, 256)  # px, square
Size = Literal["tiny", "small", "base", "large"]


@dataclass(frozen=True)
class TextEncoderConfig:
    """The language model that reads a prompt."""

    kind: Literal["transformer", "lstm"] = "transformer"
    vocab_size: int = 4096  # rows of the embedding table: the tokenizer's pieces
    context_length: int = 64  # tokens, start and end among them; what is longer is cut
    dim: int = 256  # width of text_embeds and text_features
    depth: int = 4  # blocks, or layers of the LSTM
    heads: int = 4  # attention heads; divides dim

    def __post_init__(self) -> None:
        """Raise InputError where a field is out of bounds."""
        _check(self.kind in ("transformer", "lstm"), "text.kind", self.kind, "transformer or lstm")
        _check_int("text.vocab_size", self.vocab_size, 4, 262_144)
        _check_int("text.context_length", self.context_length, 4, 1024)
        _check_int("text.dim", self.dim, 8, 4096)
        _check_int("text.depth", self.depth, 1, 64)
        _check_int("text.heads", self.heads, 1, 64)
        _check(self.dim % self.heads == 0, "text.heads", self.heads, "a divisor of text.dim")


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the networks; what a weights file holds as JSON."""

    size: str = "tiny"  # name of the preset it was made from
    resolution: int = 64  # px, the side of a picture
    image_channels: int = 4  # 4: RGBA, 3: RGB
    fold: int = (
        4  # px; blocks of fold x fold pixels become channels at the input of every image network
    )
    channels: tuple[int, ...] = (
        96,
        160,
    )  # of generator and discriminator, finest grid (resolution / fold) first
    blocks: int = 2  # residual blocks a grid, on the way down and again on the way up
    # grids (px) that attend, on the way up at each of these and on the way down at the coarsest alone
    text_attention: tuple[int, ...] = (16, 8)  # to the text's tokens
    self_attention: tuple[int, ...] = (8,)  # to themselves
    head_dim: int = 32  # width of an attention head
    image_encoder_channels: tuple[int, ...] = (64, 128, 192)  # finest grid first
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)

    def __post_init__(self) -> None:
        """Raise InputError where a field is out of bounds."""
        _check(
            self.size in (*PRESETS, "custom"),
            "size",
            self.size,
            "tiny, small, base, large or custom",
        )
        _check(self.resolution in RESOLUTIONS, "resolution", self.resolution, "32, 64, 128 or 256")
        _check(self.image_channels in (3, 4), "image_channels", self.image_channels, "3 or 4")
        _check(self.fold in (1, 2, 4, 8), "fold", self.fold, "1, 2, 4 or 8")
        for name, values in (
            ("channels", self.channels),
            ("image_encoder_channels", self.image_encoder_channels),
        ):
            _check(1 <= len(values) <= 8, name, values, "1 to 8 widths")
            for value in values:
                _check_int(name, value, 8, 4096)
            coarsest = self.grid >> (len(values) - 1)
            _check(
                coarsest >= 2,
                name,
                values,
                f"at most {int(math.log2(self.grid))} widths for this resolution and fold",
            )
        _check_int("blocks", self.blocks, 1, 16)
        _check_int("head_dim", self.head_dim, 8, 256)
        for name, grids in (
            ("text_attention", self.text_attention),
            ("self_attention", self.self_attention),
        ):
            _check(
                all(type(grid) is int and 4 <= grid <= 32 for grid in grids),
                name,
                grids,
                "grids from 4 to 32 px",
            )
        for level, width in enumerate(self.channels):
            if self.grid >> level in (*self.text_attention, *self.self_attention):
                _check(
                    width % self.head_dim == 0, "head_dim", self.head_dim, f"a divisor of {width}"
                )

    @property
    def grid(self) -> int:
        """Side, in cells, of the finest feature map."""
        return self.resolution // self.fold

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` is its inverse."""
        return cast("dict[str, Any]", _plain(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, data: object) -> ModelConfig:
        """The config of a weights file.

        Raises:
            InputError: a field is missing, unknown, of the wrong type or out of bounds.
        """
        fields = _typed_fields(cls, data, "config")
        fields["text"] = TextEncoderConfig(
            **_typed_fields(TextEncoderConfig, fields["text"], "config.text")
        )
        for name in ("channels", "text_attention", "self_attention", "image_encoder_channels"):
            fields[name] = _int_tuple(fields[name], name)
        return cls(**fields)


@dataclass(frozen=True)
class _Preset:
    channels: dict[int, int]  # grid (px) -> width
    image_encoder_channels: dict[int, int]
    blocks: int
    head_dim: int
    self_attention: tuple[int, ...]
    text_dim: int
    text_depth: int
    text_heads: int


PRESETS: dict[str, _Preset] = {
    "tiny": _Preset(
        {64: 32, 32: 64, 16: 96, 8: 128},
        {64: 32, 32: 48, 16: 64, 8: 128, 4: 192},
        2,
        32,
        (8,),
        256,
        4,
        4,
    ),
    "small": _Preset(
        {64: 48, 32: 64, 16: 128, 8: 256},
        {64: 32, 32: 64, 16: 96, 8: 192, 4: 256},
        2,
        64,
        (8,),
        256,
        5,
        4,
    ),
    "base": _Preset(
        {64: 64, 32: 96, 16: 192, 8: 384},
        {64: 48, 32: 96, 16: 128, 8: 256, 4: 384},
        3,
        64,
        (16, 8),
        384,
        6,
        6,
    ),
    "large": _Preset(
        {64: 96, 32: 160, 16: 384, 8: 640},
        {64: 64, 32: 128, 16: 192, 8: 384, 4: 512},
        3,
        64,
        (16, 8),
        512,
        6,
        8,
    ),
}


def model_config(
    size: str = "tiny",
    resolution: int = 64,
    image_channels: int = 4,
    vocab_size: int = 4096,
    text_kind: Literal["transformer", "lstm"] = "transformer",
) -> ModelConfig:
    """The config of a preset at a resolution. 32 px folds 2x2 pixels into channels, the others 4x4.

    Raises:
        UsageError: no such size or resolution.
    """
    if size not in PRESETS:
        raise UsageError(f"--size {size}: no such size", "sizes: " + ", ".join(PRESETS))
    if resolution not in RESOLUTIONS:
        raise UsageError(
            f"--resolution {resolution}: not a size that can be trained", "use 32, 64, 128 or 256"
        )
    preset = PRESETS[size]
    fold = 2 if resolution == 32 else 4
    grid = resolution // fold
    return ModelConfig(
        size=size,
        resolution=resolution,
        image_channels=image_channels,
        fold=fold,
        channels=tuple(width for side, width in preset.channels.items() if side <= grid),
        blocks=preset.blocks,
        self_attention=preset.self_attention,
        head_dim=preset.head_dim,
        image_encoder_channels=tuple(
            width for side, width in preset.image_encoder_channels.items() if side <= grid
        ),
        text=TextEncoderConfig(
            kind=text_kind,
            vocab_size=vocab_size,
            dim=preset.text_dim,
            depth=preset.text_depth,
            heads=preset.text_heads,
        ),
    )


@dataclass(frozen=True)
class TrainConfig:
    """How a run is trained: a run's `config.toml`. Shares are of the run's whole budget (time or steps)."""

    # the model
    size: str = "tiny"  # tiny, small, base, large
    resolution: int = 64  # px
    text_encoder: str = (
        "builtin"  # builtin, lstm, a folder, or hf:ID of a language model that teaches it
    )
    vocab_size: int = 4096  # pieces of the tokenizer; fewer where the captions hold no more
    # the budget: exactly one of the two is positive
    time: float = 1800.0  # s, 0 where steps rule
    steps: int = 0  # optimizer steps over all stages, 0 where time rules
    contrastive: float = 0.15  # share of the budget
    flow: float = 0.40  # share of the budget; 0 trains the plain text-conditional GAN from scratch
    distill: float = 0.10  # share of the budget: one step learns what the flow makes in many
    adversarial: float = 0.35  # share of the budget
    # the step
    batch_size: int = 0  # pictures a step in flow and adversarial stages; 0: 64, on CUDA 256
    contrastive_batch_size: int = 0  # pairs a step in the contrastive stage; 0: twice batch_size
    seed: int = 0
    contrastive_lr: float = 1e-3  # AdamW
    teacher_weight: float = 1.0  # of what a language model teaches in the contrastive stage
    flow_lr: float = (
        9e-4  # of G in flow and distill, what --lr sets; AdamW's, and Muon's, in the flow times two
    )
    adversarial_lr: float = 2e-4  # Adam, falls to a quarter by a cosine; of G
    caption_dropout: float = 0.1  # share of pictures shown without their caption
    ema_images: float = (
        500_000.0  # half-life of the average, in pictures; `training/ema.py` says how it begins
    )
    # the flow's pictures that one step learns from
    distill_steps: int = 7  # of the flow, guided
    distill_guidance: float = 2.5
    distill_pairs: int = 8192  # kept in memory, 16 KiB each at 64 px RGBA
    distill_perceptual: float = 0.1  # weight of the difference as the image encoder sees it
    # the adversarial game
    loss: Literal["relativistic", "log"] = "relativistic"  # log: the non-saturating log-loss
    alignment: Literal["contrastive", "squared"] = "contrastive"  # squared: |E(x) - f(t)|^2
    alignment_weight: float = 0.05  # of the generator's image-text term
    pattern_weight: float = 0.3  # of G's term against patterns of the size of its cells
    edge_weight: float = 1.0  # of G's term for edges as few and as strong as in real pictures
    mismatch_weight: float = 0.5  # of the mismatched-caption term of D
    discriminator_steps: int = 1  # D steps a G step
    discriminator_head_start: float = (
        0.1  # share of the stage in which D learns to judge a warm G, which waits
    )
    discriminator_lr: float = 3.0  # D's learning rate, as a factor on adversarial_lr
    discriminator_alignment_weight: float = 0.1  # of D's own image-text term on real pictures
    gamma: float = 0.0  # first weight of the penalties, falls to a tenth; 0 takes the resolution's
    penalty: Literal["finite", "exact"] = "finite"  # finite difference, or second derivatives
    penalty_every: int = 1  # steps between penalties; the weight is multiplied by it
    r2: bool = True  # the penalty on generated pictures
    pairs_weight: float = 8.0  # of G's term that holds it to the pictures that the flow drew
    spread_weight: float = 5.0  # of two pictures of a caption being as far apart as the flow's
    anchor_weight: float = 1.0  # a game without pairs is held to its start so, in the end by 0.005
    ema: bool = True
    # what D and E see
    augment: float = 0.1  # probability of each of shift, scale, cut-out, brightness in front of D
    recolour: float = 0.5  # share of pictures with one named hue that are turned to another one
    mirror: float = 0.5  # share of pictures mirrored, never where a caption says left or right
    slips: float = 0.1  # share of captions that are read with a slip of the pen
    # the run
    val: float = 0.02  # share of pictures held out, where the data names no split
    save_every: float = 300.0  # s
    sample_every: float = 300.0  # s
    report_every: float = 5.0  # s
    precision: str = "auto"  # auto, bf16, fp32

    def __post_init__(self) -> None:
        """Raise UsageError where a field is out of bounds."""
        bounds: dict[str, tuple[float, float]] = {
            "time": (0, 1e9), "steps": (0, 10**9), "contrastive": (0, 1), "flow": (0, 1), "distill": (0, 1),
            "adversarial": (0, 1), "distill_steps": (1, 1000), "distill_guidance": (0, 100),
            "distill_pairs": (1, 10**7), "distill_perceptual": (0, 1e3), "pattern_weight": (0, 1e3),
            "edge_weight": (0, 1e3),
            "batch_size": (0, 65_536), "contrastive_batch_size": (0, 65_536), "seed": (0, 2**63 - 1),
            "contrastive_lr": (0, 1), "flow_lr": (0, 1), "adversarial_lr": (0, 1), "caption_dropout": (0, 1),
            "ema_images": (1, 1e12), "alignment_weight": (0, 1e3), "mismatch_weight": (0, 1e3),
            "discriminator_steps": (1, 100), "discriminator_head_start": (0, 0.9), "discriminator_lr": (1e-3, 1e3),
            "discriminator_alignment_weight": (0, 1e3), "gamma": (0, 1e6), "penalty_every": (1, 1000),
            "pairs_weight": (0, 1e3), "anchor_weight": (0, 1e3), "spread_weight": (0, 1e3),
            "augment": (0, 1), "recolour": (0, 1), "mirror": (0, 1), "slips": (0, 1),
            "val": (0, 0.5), "save_every": (0, 1e9),
            "sample_every": (0, 1e9), "report_every": (0, 1e9), "vocab_size": (300, 262_144),
            "teacher_weight": (0, 1e3),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(
                    f"{name} = {plain(value)}: out of range", f"use {plain(low)} to {plain(high)}"
                )
        for name, values in {
            "size": tuple(PRESETS), "resolution": RESOLUTIONS, "loss": ("relativistic", "log"),
            "alignment": ("contrastive", "squared"), "penalty": ("finite", "exact"),
            "precision": ("auto", "bf16", "fp32"),
        }.items():  # fmt: skip
            if getattr(self, name) not in values:
                raise UsageError(
                    f"{name} = {getattr(self, name)}: not known",
                    "use " + ", ".join(map(str, values)),
                )
        if (self.time > 0) == (self.steps > 0):
            raise UsageError("a run needs either --time or --steps", "for example --time 30m")
        if self.contrastive + self.flow + self.distill + self.adversarial <= 0:
            raise UsageError(
                "every stage is turned off",
                "give one of contrastive, flow, distill, adversarial a share",
            )

    def to_dict(self) -> dict[str, Any]:
        """A TOML-ready dictionary; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """The config from a `config.toml` already parsed; absent fields take their default.

        Raises:
            UsageError: an unknown field, a wrong type, or a value out of bounds.
        """
        known = {item.name: item for item in dataclasses.fields(cls)}
        clean: dict[str, Any] = {}
        for name, value in with_rates(data).items():
            if name not in known:
                raise UsageError(f"config: unknown setting {name}", "settings: " + ", ".join(known))
            default = known[name].default
            wanted = cast("type[object]", type(default))
            if wanted is float and type(value) is int:
                value = float(value)
            if type(value) is not wanted:
                raise UsageError(
                    f"config: {name} = {json.dumps(value, default=str)}: expected {_KINDS[wanted]}",
                    f"for example {json.dumps(default)}",
                )
            clean[name] = value
        if "steps" in clean and "time" not in clean and clean["steps"] > 0:
            clean["time"] = 0.0
        return cls(**clean)


RATES = ("contrastive_lr", "flow_lr", "adversarial_lr")  # what --lr sets
LR_BOUNDS = (1e-7, 0.1)


def learning_rates(lr: float) -> dict[str, float]:
    """The settings of a learning rate of the generator; the other stages' keep their usual ratio to it.

    >>> learning_rates(9e-4) == {"contrastive_lr": 1e-3, "flow_lr": 9e-4, "adversarial_lr": 2e-4}
    True

    Args:
        lr: of the generator in the flow stage.

    Raises:
        UsageError: out of range.
    """
    usual = {item.name: cast("float", item.default) for item in dataclasses.fields(TrainConfig)}
    low, high = LR_BOUNDS
    if not low <= lr <= high:
        raise UsageError(
            f"--lr {plain(lr)}: out of range",
            f"it is the generator's learning rate, {plain(usual['flow_lr'])} by default; "
            f"use {plain(low)} to {plain(high)}",
        )
    return {name: usual[name] * (lr / usual["flow_lr"]) for name in RATES}


def with_rates(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without ``lr``: the stages' learning rates in its place, except where they are given themselves.

    In the `config.toml` of an older run, which has all of them, ``lr`` is a factor on each.

    Raises:
        UsageError: ``lr`` is out of range, or no number.
    """
    others = {name: value for name, value in settings.items() if name != "lr"}
    if "lr" not in settings:
        return others
    lr = settings["lr"]
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        shown = json.dumps(lr, default=str)
        raise UsageError(f"config: lr = {shown}: expected {_KINDS[float]}", "for example 0.0009")
    if all(name in settings for name in RATES):
        return others | {name: settings[name] * lr for name in RATES}
    return {**learning_rates(float(lr)), **others}


_KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
}


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        shown = json.dumps(value, default=str)
        raise InputError(f"config: {name} = {shown}: expected {expected}")


def _check_int(name: str, value: object, low: int, high: int) -> None:
    _check(
        type(value) is int and low <= value <= high,
        name,
        value,
        f"a whole number from {low} to {high}",
    )


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in cast("tuple[object, ...]", value)]
    return value


def _typed_fields(cls: type, data: object, where: str) -> dict[str, Any]:
    """The fields of ``cls`` in ``data``, none missing, none more; ints are ints and strings strings."""
    _check(isinstance(data, dict), where, type(data).__name__, "an object")
    given = cast("dict[str, Any]", data)
    names = {item.name for item in dataclasses.fields(cls)}
    _check(
        set(given) == names,
        where,
        sorted(set(given) ^ names),
        f"exactly the fields {sorted(names)}",
    )
    return dict(given)


def _int_tuple(value: object, name: str) -> tuple[int, ...]:
    numbers = cast("list[object]", value if isinstance(value, list) else [value] * 17)
    short = len(numbers) <= 16 and all(type(number) is int for number in numbers)
    _check(short, name, numbers[:17], "a short list of whole numbers")
    return tuple(cast("list[int]", numbers))
