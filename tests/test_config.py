"""Configs: their JSON and TOML forms, their bounds, and what strangers may write into them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_cli.config import (
    PRESETS,
    RESOLUTIONS,
    Attribute,
    ModelConfig,
    TextEncoderConfig,
    TrainConfig,
    model_config,
)
from t2i_cli.errors import InputError, UsageError

STYLE = Attribute("style", ("fluent", "line-art", "pixel"), "fluent")
SEASON = Attribute("season", ("summer", "winter"))


def told(**changed: Any) -> dict[str, Any]:
    """A config as a weights file holds it, with some fields changed."""
    data = model_config(attributes=(STYLE, SEASON)).to_dict()
    return {**json.loads(json.dumps(data)), **changed}


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("size", list(PRESETS))
@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_a_config_survives_json(size: str, resolution: int, kind: Any) -> None:
    config = model_config(size, resolution, 777, kind, attributes=(STYLE, SEASON), opaque=True)
    assert config.opaque
    assert config.text.kind == kind
    assert config.text.vocab_size == 777
    read = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert hash(read) == hash(config)
    assert all(isinstance(part, tuple) for part in (read.channels, read.attributes[0].values))


def test_the_default_is_a_config_too() -> None:
    assert ModelConfig.from_dict(ModelConfig().to_dict()) == ModelConfig()


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().resolution = 128  # pyright: ignore[reportAttributeAccessIssue]


def test_presets_keep_the_cells_and_put_a_doubling_on_for_larger_pictures() -> None:
    for size in PRESETS:
        small, large = (model_config(size, resolution) for resolution in (64, 128))
        assert small.cells == large.cells == 8
        assert small.channels == large.channels
        assert len(large.encoder_channels) == len(small.encoder_channels) + 1
        assert len(large.decoder_channels) == len(small.decoder_channels) + 1
        assert large.decoder_channels[:-1] == small.decoder_channels
        assert model_config(size, 256).cells == 16


def test_sizes_and_resolutions_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="--size huge: no such size"):
        model_config("huge")
    with pytest.raises(UsageError, match="--resolution 96"):
        model_config("tiny", 96)


# -- attributes -------------------------------------------------------------------------------


def test_an_attribute_knows_the_places_of_its_values() -> None:
    assert [STYLE.index(value) for value in STYLE.values] == [0, 1, 2]
    for none in ("", "unheard-of", "Fluent"):
        assert STYLE.index(none) == 3
    config = model_config(attributes=(STYLE, SEASON))
    assert config.attribute("season") is SEASON
    assert config.attribute("colour") is None


@pytest.mark.parametrize(
    "wrong",
    [
        ("", ("a",)),
        ("n" * 65, ("a",)),
        ("style\x1b[31m", ("a",)),
        ("style", ()),
        ("style", tuple(f"{i:04}" for i in range(1001))),
        ("style", ("b", "a")),
        ("style", ("a", "a")),
        ("style", ("",)),
        ("style", ("a", "b\u202e")),
        ("style", ("v" * 129,)),
        ("style", ("a", "b"), "c"),
        ("style", ("a", 2)),
        (3, ("a",)),
    ],
)
def test_an_attribute_that_is_none(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match="attribute"):
        Attribute(*wrong)


# -- what a stranger may write ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "huge"), ("size", 3), ("size", []), ("size", {}), ("size", None),
        ("resolution", 96), ("resolution", "64"), ("resolution", None), ("resolution", [64]), ("resolution", 1e999),
        ("opaque", 1), ("opaque", "true"), ("opaque", None),
        ("cells", 7), ("cells", 16), ("cells", 0), ("cells", -8), ("cells", "8"), ("cells", None),
        ("latent_channels", 1), ("latent_channels", 257), ("latent_channels", 16.0), ("latent_channels", True),
        ("patch", 3), ("patch", 0), ("patch", 8), ("patch", "4"), ("patch", None),
        ("encoder_channels", []), ("encoder_channels", [64]), ("encoder_channels", [64, 96, 96]),
        ("encoder_channels", [64] * 9), ("encoder_channels", [64] * 100_000), ("encoder_channels", [7, 64]),
        ("encoder_channels", [64, 4097]), ("encoder_channels", [64.0, 96]), ("encoder_channels", [True, 96]),
        ("encoder_channels", "6464"), ("encoder_channels", 64), ("encoder_channels", None), ("encoder_channels", {}),
        ("decoder_channels", []), ("decoder_channels", [64] * 5), ("decoder_channels", [[64]]),
        ("autoencoder_blocks", 0), ("autoencoder_blocks", 17), ("autoencoder_blocks", 1.0),
        ("channels", [64]), ("channels", [64, 128, 256]), ("channels", [64, 100]), ("channels", [66, 128]),
        ("channels", [48, 128]), ("channels", [0, 0]), ("channels", [-64, 128]), ("channels", [64, 10**30]),
        ("blocks", 0), ("blocks", 17), ("blocks", True), ("blocks", "2"), ("blocks", None),
        ("head_dim", 4), ("head_dim", 257), ("head_dim", 24), ("head_dim", 32.0),
        ("image_encoder_channels", [64] * 5), ("image_encoder_channels", []),
        ("attributes", None), ("attributes", "style"), ("attributes", {}), ("attributes", [None]), ("attributes", [[]]),
        ("attributes", [{}]), ("attributes", [{"name": "a", "values": ["x"]}]),
        ("attributes", [{"name": "a", "values": "xyz", "default": ""}]),
        ("attributes", [{"name": "a", "values": {"x": 1}, "default": ""}]),
        ("attributes", [{"name": "a", "values": [1], "default": ""}]),
        ("attributes", [{"name": "a", "values": [["x"]], "default": ""}]),
        ("attributes", [{"name": "a", "values": ["x"], "default": []}]),
        ("attributes", [{"name": ["a"], "values": ["x"], "default": ""}]),
        ("attributes", [{"name": "a", "values": ["x"], "default": "", "more": 1}]),
        ("attributes", [{"name": "a", "values": ["x"], "default": ""}] * 2),
        ("attributes", [{"name": f"{i}", "values": ["x"], "default": ""} for i in range(17)]),
        ("text", None), ("text", []), ("text", {}), ("text", "transformer"),
    ],
)  # fmt: skip
def test_no_field_takes_what_is_out_of_bounds(field: str, value: object) -> None:
    with pytest.raises(InputError, match="config"):
        ModelConfig.from_dict(told(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "gru"), ("kind", None), ("kind", []), ("vocab_size", 3), ("vocab_size", 262_145),
        ("vocab_size", 400.0), ("context_length", 3), ("context_length", 1025), ("dim", 7), ("dim", 4097),
        ("dim", "128"), ("depth", 0), ("depth", 65), ("depth", True), ("heads", 0), ("heads", 65), ("heads", 5),
        ("heads", None),
    ],
)  # fmt: skip
def test_no_field_of_the_text_encoder_takes_what_is_out_of_bounds(field: str, value: Any) -> None:
    text = {**told()["text"], field: value}
    with pytest.raises(InputError, match=rf"text\.{field}"):
        ModelConfig.from_dict(told(text=text))
    with pytest.raises(InputError, match=rf"text\.{field}"):
        TextEncoderConfig(**text)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ModelConfig)])
def test_no_field_may_be_missing(name: str) -> None:
    data = told()
    del data[name]
    with pytest.raises(InputError, match=name):
        ModelConfig.from_dict(data)


def test_no_field_may_be_unknown() -> None:
    with pytest.raises(InputError, match="surprise"):
        ModelConfig.from_dict(told(surprise=1))
    with pytest.raises(InputError, match=r"config\.text.*surprise"):
        ModelConfig.from_dict(told(text={**told()["text"], "surprise": 1}))


@pytest.mark.parametrize("data", [None, [], "config", 3, True])
def test_a_config_is_an_object(data: object) -> None:
    with pytest.raises(InputError, match="expected an object"):
        ModelConfig.from_dict(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside, max_size=4),
    max_leaves=8,
)  # fmt: skip
# numbers that Python takes for equal to whole ones are left to tests of their own
ODD = JSON.filter(lambda value: type(value) not in (float, bool))


@given(st.sampled_from([field.name for field in dataclasses.fields(ModelConfig)]), ODD)
def test_any_json_is_a_config_or_an_input_error(field: str, value: object) -> None:
    try:
        config = ModelConfig.from_dict(told(**{field: value}))
    except InputError as error:
        assert "config" in str(error)
    else:
        assert ModelConfig.from_dict(config.to_dict()) == config


# -- how a run is trained ---------------------------------------------------------------------


def test_a_train_config_survives_its_dictionary() -> None:
    config = TrainConfig(time=0.0, steps=300, attribute_weights="style=pixel:0.5", seed=2**63 - 1)
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.from_dict({}) == TrainConfig()


def test_whole_numbers_are_numbers_and_steps_stand_for_time() -> None:
    assert TrainConfig.from_dict({"flow": 1, "time": 60}).flow == 1.0
    only_steps = TrainConfig.from_dict({"steps": 10})
    assert (only_steps.steps, only_steps.time) == (10, 0.0)


NUMBERS = [
    (field.name, field.default)
    for field in dataclasses.fields(TrainConfig)
    if type(field.default) in (int, float) and field.name != "resolution"
]


@pytest.mark.parametrize(("name", "default"), NUMBERS)
def test_every_number_has_bounds(name: str, default: float) -> None:
    whole = type(default) is int
    for wild in (-1, 10**30, float("nan"), float("inf")):
        said = "expected a whole number" if whole and type(wild) is float else "out of range"
        with pytest.raises(UsageError, match=rf"{name} = .*{said}"):
            TrainConfig(**{name: wild})


CHOICES = ("size", "resolution", "objective", "loss", "alignment", "penalty", "precision")


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_held_to_its_values(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} = other: not known"):
        TrainConfig(**{name: "other"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"flow_rl": 1.0}, "unknown setting flow_rl"),
        ({"seed": "1"}, 'seed = "1": expected a whole number'),
        ({"seed": True}, "seed = true: expected a whole number"),
        ({"flow": "half"}, 'flow = "half": expected a number'),
        ({"flow": True}, "flow = true: expected a number"),
        ({"objective": 3}, "objective = 3: expected text"),
        ({"time": 0.0}, "either --time or --steps"),
        ({"time": 5.0, "steps": 5}, "either --time or --steps"),
        ({"contrastive": 0, "autoencoder": 0, "flow": 0, "gan": 0}, "every stage is turned off"),
    ],
)
def test_a_wrong_setting_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig.from_dict(data)
