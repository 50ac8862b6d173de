"""What a model is and how it is trained: small frozen dataclasses, their presets, and their strict JSON form.

`ModelConfig` travels inside every weights file; `TrainConfig` is a run's `config.toml`. Both are checked whole before
anything expensive is done with them, and a `ModelConfig` read from a stranger's file is held to the same bounds.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from t2i_cli.errors import InputError, UsageError
from t2i_cli.wording import plain

__all__ = [
    "PRESETS",
    "RESOLUTIONS",
    "Attribute",
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
class Attribute:
    """A condition beside the text: a metadata column such as style, and the values that it has in the data."""

    name: str  # of the column
    values: tuple[
        str, ...
    ]  # sorted; what a network is told is a value's place, or their number for none
    default: str = ""  # what is drawn where nothing is asked for; empty: none

    def __post_init__(self) -> None:
        """Raise InputError where a field is out of bounds."""
        _check_text("attribute name", self.name, 64)
        _check(
            1 <= len(self.values) <= 1000,
            f"attribute {self.name}",
            len(self.values),
            "1 to 1000 values",
        )
        for value in self.values:
            _check_text(f"attribute {self.name}", value, 128)
        _check(
            list(self.values) == sorted(set(self.values)),
            f"attribute {self.name}",
            "values",
            "sorted values, each once",
        )
        known = self.default in ("", *self.values)
        _check(known, f"attribute {self.name}", self.default, "a default that is one of its values")

    def index(self, value: str) -> int:
        """The place of a value, or the number of values where it is none of them."""
        return self.values.index(value) if value in self.values else len(self.values)


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the networks; what a weights file holds as JSON."""

    size: str = "tiny"  # name of the preset it was made from
    resolution: int = 64  # px, the side of a picture
    opaque: bool = False  # whether every training picture was opaque, so that RGB is written
    # the autoencoder
    cells: int = 8  # side of the grid of latents
    latent_channels: int = 16
    patch: int = 4  # px; blocks of patch x patch pixels become channels at an image network's input
    encoder_channels: tuple[int, ...] = (
        32,
        48,
    )  # finest grid (resolution / patch) first, cells last
    decoder_channels: tuple[int, ...] = (48, 32, 24)  # cells first
    autoencoder_blocks: int = 1  # residual blocks a grid; one at the decoder's finest
    # the generator
    channels: tuple[int, int] = (32, 64)  # at the grid of latents, and at half of it
    blocks: int = 1  # residual blocks on the way down, half as many as in the middle, and up
    head_dim: int = 32  # width of an attention head
    attributes: tuple[Attribute, ...] = ()  # conditions beside the text
    # what compares pictures with texts
    image_encoder_channels: tuple[int, ...] = (32, 64, 64)  # finest grid first
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)

    def __post_init__(self) -> None:
        """Raise InputError where a field is out of bounds."""
        sizes = (*PRESETS, "custom")
        _check(self.size in sizes, "size", self.size, "tiny, small, base, large or custom")
        for name in ("resolution", "patch", "cells"):
            _check_int(name, getattr(self, name), 1, 4096)
        _check(self.resolution in RESOLUTIONS, "resolution", self.resolution, "32, 64, 128 or 256")
        _check(type(self.opaque) is bool, "opaque", self.opaque, "true or false")
        _check(self.patch in (1, 2, 4, 8), "patch", self.patch, "1, 2, 4 or 8")
        _check(self.cells in (4, 8, 16), "cells", self.cells, "4, 8 or 16")
        _check_int("latent_channels", self.latent_channels, 2, 256)
        widths = ("encoder_channels", "decoder_channels", "channels", "image_encoder_channels")
        for name in widths:
            values = getattr(self, name)
            _check(1 <= len(values) <= 8, name, values, "1 to 8 widths")
            for value in values:
                _check_int(name, value, 8, 4096)
        coarsest = self.grid >> (len(self.image_encoder_channels) - 1)
        _check(coarsest >= 2, "image_encoder_channels", self.image_encoder_channels, "fewer widths")
        encoded = self.grid >> (len(self.encoder_channels) - 1)
        _check(
            encoded == self.cells,
            "encoder_channels",
            self.encoder_channels,
            "a width a grid, down to cells",
        )
        decoded = self.cells << (len(self.decoder_channels) - 1)
        _check(
            decoded <= self.resolution and self.resolution // decoded <= 8,
            "decoder_channels", self.decoder_channels, "a width a grid, up to an eighth of the resolution or finer",
        )  # fmt: skip
        _check_int("autoencoder_blocks", self.autoencoder_blocks, 1, 16)
        _check_int("blocks", self.blocks, 1, 16)
        _check_int("head_dim", self.head_dim, 8, 256)
        _check(len(self.channels) == 2, "channels", self.channels, "2 widths")
        for width in self.channels:
            whole = width % 8 == 0 and (width < self.head_dim or width % self.head_dim == 0)
            _check(whole, "channels", self.channels, "multiples of 8 and of head_dim")
        names = [attribute.name for attribute in self.attributes]
        _check(
            len(names) <= 16 and len(set(names)) == len(names),
            "attributes",
            names,
            "16 at most, each once",
        )

    @property
    def grid(self) -> int:
        """Side, in patches, of the finest feature map of a network that reads pictures."""
        return self.resolution // self.patch

    def attribute(self, name: str) -> Attribute | None:
        """The attribute of a name, where the model has it."""
        return next((one for one in self.attributes if one.name == name), None)

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
        for name in ("encoder_channels", "decoder_channels", "channels", "image_encoder_channels"):
            fields[name] = _int_tuple(fields[name], name)
        told = _short_list(fields["attributes"], "attributes", 16)
        fields["attributes"] = tuple(_attribute(one) for one in told)
        return cls(**fields)


def _attribute(data: object) -> Attribute:
    fields = _typed_fields(Attribute, data, "config.attributes")
    values = _short_list(fields["values"], "attributes", 1000)
    _check(all(isinstance(one, str) for one in values), "attributes", "values", "strings")
    return Attribute(fields["name"], tuple(cast("list[str]", values)), fields["default"])


def _short_list(value: object, name: str, most: int) -> list[object]:
    _check(isinstance(value, list), name, type(value).__name__, "a list")
    listed = cast("list[object]", value)
    _check(len(listed) <= most, name, len(listed), f"{most} at most")
    return listed


@dataclass(frozen=True)
class _Preset:
    encoder_channels: dict[int, int]  # grid (cells) -> width
    decoder_channels: dict[int, int]
    autoencoder_blocks: int
    channels: tuple[int, int]
    blocks: int
    head_dim: int
    image_encoder_channels: dict[int, int]
    text_dim: int
    text_depth: int
    text_heads: int


PRESETS: dict[str, _Preset] = {
    "tiny": _Preset(
        {64: 24, 32: 32, 16: 64, 8: 96}, {8: 128, 16: 80, 32: 40, 64: 24}, 1,
        (64, 128), 2, 32, {64: 32, 32: 48, 16: 64, 8: 128, 4: 192}, 128, 3, 4,
    ),
    "small": _Preset(
        {64: 32, 32: 64, 16: 128, 8: 224}, {8: 256, 16: 160, 32: 80, 64: 48}, 2,
        (128, 256), 3, 64, {64: 32, 32: 64, 16: 96, 8: 192, 4: 256}, 256, 5, 4,
    ),
    "base": _Preset(
        {64: 48, 32: 96, 16: 192, 8: 320}, {8: 384, 16: 224, 32: 112, 64: 64}, 2,
        (192, 384), 3, 64, {64: 48, 32: 96, 16: 128, 8: 256, 4: 384}, 384, 6, 6,
    ),
    "large": _Preset(
        {64: 64, 32: 128, 16: 256, 8: 448}, {8: 512, 16: 320, 32: 160, 64: 80}, 3,
        (320, 640), 4, 64, {64: 64, 32: 128, 16: 192, 8: 384, 4: 512}, 512, 6, 8,
    ),
}  # fmt: skip


def model_config(
    size: str = "tiny",
    resolution: int = 64,
    vocab_size: int = 4096,
    text_kind: Literal["transformer", "lstm"] = "transformer",
    *,
    attributes: tuple[Attribute, ...] = (),
    opaque: bool = False,
) -> ModelConfig:
    """The config of a preset at a resolution: 8 x 8 cells of latents, 16 x 16 at 256 px.

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
    patch = 2 if resolution == 32 else 4
    grid, cells = resolution // patch, 16 if resolution == 256 else 8
    finest = max(resolution // 2, 2 * cells)  # grid of the decoder's last convolutions

    def widths(table: dict[int, int], low: int, high: int) -> tuple[int, ...]:
        return tuple(width for side, width in table.items() if low <= side <= high)

    return ModelConfig(
        size=size,
        resolution=resolution,
        opaque=opaque,
        cells=cells,
        patch=patch,
        encoder_channels=widths(preset.encoder_channels, cells, grid),
        decoder_channels=widths(preset.decoder_channels, cells, min(finest, 64)),
        autoencoder_blocks=preset.autoencoder_blocks,
        channels=preset.channels,
        blocks=preset.blocks,
        head_dim=preset.head_dim,
        attributes=attributes,
        image_encoder_channels=widths(preset.image_encoder_channels, 4, grid),
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
    objective: Literal["flow", "gan"] = "flow"  # gan: the founding form, one step against D
    contrastive: float = 0.15  # share of the budget
    autoencoder: float = 0.35  # share of the budget
    flow: float = 0.50  # share of the budget
    gan: float = 0.0  # share of the budget; with objective gan the flow's
    # the step
    batch_size: int = 0  # latents a step in flow and gan; 0: 64, on CUDA 256
    contrastive_batch_size: int = 0  # pairs a step in the contrastive stage; 0: twice batch_size
    autoencoder_batch_size: int = (
        0  # pictures a step in the autoencoder stage; 0: half of batch_size
    )
    seed: int = 0
    contrastive_lr: float = 1e-3  # AdamW
    teacher_weight: float = 1.0  # of what a language model teaches in the contrastive stage
    autoencoder_lr: float = 4e-4  # Adam
    equivariance: float = 0.0  # share of the autoencoder's steps with shrunk or turned latents
    flow_lr: float = 2e-3  # AdamW, of the generator
    gan_lr: float = 2e-4  # Adam, of the generator; falls to a quarter by a cosine
    caption_dropout: float = 0.1  # share of pictures shown without their caption
    attribute_weights: str = ""  # such as "style=silhouette:0.4,clip-art:0.4"
    # the founding form
    loss: Literal["relativistic", "log"] = "relativistic"  # log: the non-saturating log-loss
    alignment: Literal["contrastive", "squared"] = "contrastive"  # squared: |E(x) - f(t)|^2
    alignment_weight: float = 0.05  # of the generator's image-text term
    mismatch_weight: float = 0.5  # of the mismatched-caption term of D
    discriminator_steps: int = 1  # D steps a G step
    discriminator_lr: float = 3.0  # D's learning rate, as a factor on gan_lr
    discriminator_alignment_weight: float = 0.1  # of D's own image-text term on real pictures
    gamma: float = 0.0  # first weight of the penalties, falls to a tenth; 0 takes the resolution's
    penalty: Literal["finite", "exact"] = "finite"  # finite difference, or second derivatives
    # what D and E see
    augment: float = 0.1  # probability of each of shift, scale, cut-out, brightness in front of D
    recolour: float = 0.5  # share of pictures with one named hue that are turned to another one
    mirror: float = 0.5  # share of pictures mirrored, never where a caption says left or right
    slips: float = 0.1  # share of captions that are read with a typo in the contrastive stage
    # the run
    val: float = 0.02  # share of pictures held out, where the data names no split
    save_every: float = 300.0  # s
    sample_every: float = 300.0  # s
    report_every: float = 5.0  # s
    precision: str = "auto"  # auto, bf16, fp32

    def __post_init__(self) -> None:
        """Raise UsageError where a field is out of bounds."""
        bounds: dict[str, tuple[float, float]] = {
            "time": (0, 1e9), "steps": (0, 10**9), "contrastive": (0, 1), "autoencoder": (0, 1), "flow": (0, 1),
            "gan": (0, 1), "batch_size": (0, 65_536), "contrastive_batch_size": (0, 65_536),
            "autoencoder_batch_size": (0, 65_536), "seed": (0, 2**63 - 1), "contrastive_lr": (0, 1),
            "autoencoder_lr": (0, 1), "equivariance": (0, 1), "flow_lr": (0, 1), "gan_lr": (0, 1),
            "caption_dropout": (0, 1), "alignment_weight": (0, 1e3), "mismatch_weight": (0, 1e3),
            "discriminator_steps": (1, 100), "discriminator_lr": (1e-3, 1e3),
            "discriminator_alignment_weight": (0, 1e3), "gamma": (0, 1e6), "augment": (0, 1), "recolour": (0, 1),
            "mirror": (0, 1), "slips": (0, 1), "val": (0, 0.5), "save_every": (0, 1e9), "sample_every": (0, 1e9),
            "report_every": (0, 1e9), "vocab_size": (300, 262_144), "teacher_weight": (0, 1e3),
        }  # fmt: skip
        whole = {item.name for item in dataclasses.fields(self) if item.type == "int"}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if name in whole and type(value) is not int:
                raise UsageError(
                    f"{name} = {value!r}: expected a whole number", f"use {int(low)} or more"
                )
            if not low <= value <= high:
                raise UsageError(
                    f"{name} = {plain(value)}: out of range", f"use {plain(low)} to {plain(high)}"
                )
        for name, values in {
            "size": tuple(PRESETS), "resolution": RESOLUTIONS, "loss": ("relativistic", "log"),
            "alignment": ("contrastive", "squared"), "penalty": ("finite", "exact"), "objective": ("flow", "gan"),
            "precision": ("auto", "bf16", "fp32"),
        }.items():  # fmt: skip
            if getattr(self, name) not in values:
                raise UsageError(
                    f"{name} = {getattr(self, name)}: not known",
                    "use " + ", ".join(map(str, values)),
                )
        if (self.time > 0) == (self.steps > 0):
            raise UsageError("a run needs either --time or --steps", "for example --time 30m")
        if self.contrastive + self.autoencoder + self.flow + self.gan <= 0:
            raise UsageError(
                "every stage is turned off",
                "give one of contrastive, autoencoder, flow, gan a share",
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


RATES = ("contrastive_lr", "autoencoder_lr", "flow_lr", "gan_lr")  # what --lr sets
LR_BOUNDS = (1e-7, 0.1)


def learning_rates(lr: float) -> dict[str, float]:
    """The settings of a learning rate of the generator; the other stages' keep their usual ratio to it.

    >>> learning_rates(2e-3)["contrastive_lr"], learning_rates(1e-3)["flow_lr"]
    (0.001, 0.001)

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
        raise UsageError(f"config: lr = {shown}: expected {_KINDS[float]}", "for example 0.002")
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


def _check_text(name: str, value: object, most: int) -> None:
    plain = isinstance(value, str) and 1 <= len(value) <= most and value.isprintable()
    _check(plain, name, value, f"1 to {most} printable characters")


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
