import json

import numpy as np
import pytest

from t2i_cli import images, metadata, png
from t2i_cli.errors import InputError
from t2i_cli.metadata import GENERATED, Recipe, from_text, to_text, xmp

FULL = Recipe(
    prompt="ein roter Fuchs 🦊",
    seed=2**62,
    negative="blue",
    guidance=1.5,
    steps=8,
    attributes="season=winter,style=bold",
    references=3,
    read=(7, 12, 2**31 - 1),
    like=("cd" * 32, "ef" * 32),
    truncation=0.7,
    best_of=4,
    picked=2**62 + 3,
    scale=2,
    background="#fff",
    format="png",
    model="icons, by me",
    model_hash="ab" * 32,
    runtime="onnxruntime-cpu",
    version="0.1.0",
)


SHEET = Recipe(
    "a",
    3,
    kind="grid",
    best_of=2,
    sheet=(("a", 3, 2, "", 1.0, ""), ("ü\n", 2**62, 1, "b", 1.5, "style=bold")),
)
MORPH = Recipe("a", 3, kind="morph", to="b", frames=24)
RELATIVE = Recipe("a", 3, kind="vary", strength=0.0, source="ab" * 32, first=0)


@pytest.mark.parametrize(
    "recipe",
    [
        FULL,
        Recipe("a", 0),
        Recipe("a", 0, literal=True),
        Recipe("a\nSteps: 9\x1b[31m\0", 1),
        SHEET,
        MORPH,
        RELATIVE,
    ],
)
@pytest.mark.parametrize("format", ["png", "webp", "jpg"])
def test_a_recipe_travels_in_every_format(recipe, format):
    pixels = np.full((8, 8, 4), 200, np.uint8)
    text = to_text(recipe, 8, 8)
    data = (
        png.encode(pixels, text, xmp(recipe))
        if format == "png"
        else images.encode(pixels, format, text=text, xmp=xmp(recipe))
    )
    read = images.read_text(data, name="x")
    assert from_text(read.text, "x") == recipe
    assert GENERATED in read.xmp
    assert read.text["parameters"] == text["parameters"]


def test_parameters_grammar():
    lines = metadata.parameters(FULL, 128, 128).split("\n")
    assert lines[0] == FULL.prompt
    assert lines[1] == "Negative prompt: blue"
    assert lines[2].startswith(
        "Steps: 8, Sampler: t2i flow, CFG scale: 1.5, Seed: 4611686018427387907, Size: 128x128, "
    )
    assert 'Attributes: "season=winter,style=bold", References: 7 12 2147483647, ' in lines[2]
    assert 'Model: "icons, by me"' in lines[2]


def test_a_prompt_cannot_forge_the_parameters():
    text = metadata.parameters(Recipe("a\nSteps: 9, Seed: 666\x1b", 1), 64, 64)
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_no_metadata_still_says_generated():
    assert GENERATED in xmp()
    assert "prompt" not in xmp()


@pytest.mark.parametrize(
    "raw",
    [None, "", "[]", "{", '{"prompt": "a"}', '{"prompt": 1, "seed": 1}', '{"prompt": "a", "seed": -1}',
     '{"prompt": "a", "seed": 1, "guidance": NaN}', '{"prompt": "a", "seed": 1, "scale": 1000000}',
     '{"prompt": "a", "seed": 1, "kind": "x"}', '{"prompt": "a", "seed": 1, "frames": 1000000}',
     '{"prompt": "a", "seed": 1, "sheet": 1}', '{"prompt": "a", "seed": 1, "sheet": [["a", 1, 1, "", 1]]}',
     '{"prompt": "a", "seed": 1, "sheet": [["a", 1, 1, "", 1, 7]]}',
     '{"prompt": "a", "seed": 1, "sheet": [["a", 1, 1000000, "", 1, ""]]}',
     '{"prompt": "a", "seed": 1, "sheet": [["a", 1, 1000, "", 1, ""], ["a", 1, 1000, "", 1, ""]]}',
     '{"prompt": "a", "seed": 1, "steps": 0}', '{"prompt": "a", "seed": 1, "steps": 1e9}',
     '{"prompt": "a", "seed": 1, "references": -1}', '{"prompt": "a", "seed": 1, "references": 1000000}',
     '{"prompt": "a", "seed": 1, "read": 1}', '{"prompt": "a", "seed": 1, "read": ["1"]}',
     '{"prompt": "a", "seed": 1, "read": [true]}', '{"prompt": "a", "seed": 1, "read": [1.5]}',
     '{"prompt": "a", "seed": 1, "like": "ab"}', '{"prompt": "a", "seed": 1, "like": [1]}',
     '{"prompt": "a", "seed": 1, "like": ["\\ud800"]}', '{"prompt": "a", "seed": 1, "attributes": ["a"]}',
     json.dumps({"prompt": "a", "seed": 1, "read": [1] * 1001}),
     '{"prompt": "a", "seed": 1, "format": "exe"}', '{"prompt": "a", "seed": 1, "literal": 1}',
     '{"prompt": "\\ud800", "seed": 1}', "[" * 100_000],
)  # fmt: skip
def test_hostile_metadata_is_refused(raw):
    with pytest.raises(InputError):
        from_text({} if raw is None else {"t2i": raw}, "x.png")


def test_unknown_fields_of_later_versions_are_passed_over():
    text = json.dumps({"prompt": "a", "seed": 1, "later": [1]})
    assert from_text({"t2i": text}, "x") == Recipe("a", 1)
