import numpy as np
import pytest

from t2i_cli.checkpoint import read_info, shipped_models
from t2i_cli.images import flatten
from t2i_cli.pixels import to_pixels
from t2i_cli.runtime import Row, open_runtime
from t2i_cli.runtime.graphs import bundle_for
from t2i_cli.runtime.onnx_runtime import OnnxRuntime
from t2i_cli.runtime.torch_runtime import TorchRuntime
from t2i_cli.sample import Model, Wish

MODELS = shipped_models()


@pytest.mark.parametrize(
    "name",
    MODELS or [pytest.param("none", marks=pytest.mark.skip(reason="no weights are shipped"))],
)
def test_a_shipped_model_draws_at_once_and_as_torch_does(name, monkeypatch):
    path = MODELS[name]
    monkeypatch.setattr("t2i_cli.export.build_graphs", None)  # its graph is shipped too
    assert bundle_for(read_info(path).config)
    runtime, reference = open_runtime(path, "cpu"), TorchRuntime.open(path, "cpu")
    assert isinstance(runtime, OnnxRuntime)
    for seed, prompt in enumerate(["a red cat", "a blue house", ""]):
        drawn, wanted = (
            one.draw([Row(one.encode(prompt), seed)])[0] for one in (runtime, reference)
        )
        assert drawn.references == wanted.references
        looks = [flatten(to_pixels(one.image[None])[0]).astype(int) for one in (drawn, wanted)]
        assert np.abs(looks[0] - looks[1]).max() <= 2
    one = Model(runtime, path).pictures([Wish("a red cat", 3)])[0].pixels
    many = (
        Model(runtime, path)
        .pictures([Wish("a dog", 1), Wish("a red cat", 3), Wish("a fish", 2)])[1]
        .pixels
    )
    assert np.array_equal(one, many)
    assert one.std() > 5


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_draws_in_each_of_its_styles_and_without_references(name):
    runtime = open_runtime(MODELS[name], "cpu")
    model, style = Model(runtime, MODELS[name]), runtime.config.attribute("style")
    if style is not None:
        looks = {
            value: model.pictures([Wish("a red cat", 3, attributes=(("style", value),))])[0].pixels
            for value in (*style.values[:2], "none")
        }
        assert len({pixels.tobytes() for pixels in looks.values()}) == len(looks)
    drawn = model.pictures([Wish("a red cat", 3), Wish("a red cat", 3, references=0)])
    assert [len(one.recipe.read) for one in drawn] == [min(3, len(runtime.store)), 0]
    assert all(one.pixels.std() > 5 for one in drawn)


@pytest.mark.parametrize("name", MODELS)
def test_other_words_for_the_same_thing_land_beside_it(name):
    """What people type instead of what captions say: of nine texts the one that means the same is the nearest."""
    runtime = open_runtime(MODELS[name], "cpu")
    plain = ["a red cat", "a blue cat", "a red car", "a blue car", "a small dog", "a smiling face"]
    plain += ["a purple heart", "a yellow banana", "a green kite"]
    asked = {
        "a crimson kitty": "a red cat",
        "red cats": "a red cat",
        "cat, a red one": "a red cat",
        "a little puppy": "a small dog",
        "a grinning visage": "a smiling face",
        "a lavender heart": "a purple heart",
        "a yellow baanna": "a yellow banana",
    }
    texts = np.stack([runtime.encode(text).text_features for text in plain])
    for text, meant in asked.items():
        nearest = plain[int((texts @ runtime.encode(text).text_features).argmax())]
        assert nearest == meant, text


@pytest.mark.parametrize("name", MODELS)
def test_words_that_no_caption_had_are_read_as_ones_that_they_had(name):
    words = open_runtime(MODELS[name], "cpu").words
    for typed, read in {
        "a crimson kitty": "a red cat",
        "a jet-black timepiece": "a black clock",
        "a joyful visage": "a happy face",
        "a mansion, a canine": "a house, a dog",
        "a tangerine hat": "an orange hat",
        "a tangerine": "a tangerine",
        "a purple baanna": "a purple banana",
        "a red cat": "a red cat",
    }.items():
        assert words.read(typed) == read
