"""`--like`: drawing after pictures that the model has never seen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import images
from t2i_cli.errors import InputError, UsageError
from t2i_cli.like import MOST, store_of, use
from t2i_cli.sample import Wish, load, recipe_of
from tests.toy_weights import save_toy
from tests.toys import Toys


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_toy(tmp_path_factory.mktemp("weights") / "toy.safetensors")


@pytest.fixture
def model(weights):
    return load(weights, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The toys as files, and things beside them that are no pictures."""
    place = tmp_path_factory.mktemp("like")
    for number, pixels in enumerate(Toys().pixels):
        (place / f"{number:02}.png").write_bytes(images.encode(pixels))
    (place / "notes.txt").write_text("no picture")
    (place / ".hidden.png").write_bytes(b"none either")
    return place


def files_of(folder, count):
    """The first few pictures of the folder."""
    return {name: (folder / name).read_bytes() for name in (f"{k:02}.png" for k in range(count))}


def pixels_of(model, wish):
    return model.pictures([wish])[0].pixels


def test_a_store_of_pictures_is_what_the_networks_make_of_each(model, folder):
    store, features = store_of(model.runtime, files_of(folder, 3))
    assert len(store) == 3 and features.shape == (3, 32)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-4)
    assert (store.attributes == 2).all()  # none of the styles
    assert len(set(store.sources.tolist())) == 3
    own = model.runtime.store  # made of the same pictures by torch
    assert np.abs(store.latents.astype(int) - own.latents[:3]).max() <= 1


def test_a_file_is_drawn_after_in_place_of_the_models_own(model, folder):
    plain = model.pictures([Wish("a red ball", 1, steps=3)])[0]
    use(model, str(folder / "03.png"))
    (found,) = model.pictures([Wish("a red ball", 1, steps=3)])
    assert not np.array_equal(plain.pixels, found.pixels)
    assert found.recipe.like == (hashlib.sha256((folder / "03.png").read_bytes()).hexdigest(),)
    assert len(found.recipe.read) == 1  # there is one picture, and it is read once
    other = load(model.path, "cpu")
    use(other, str(folder / "04.png"))
    assert not np.array_equal(found.pixels, pixels_of(other, Wish("a red ball", 1, steps=3)))


def test_of_a_folder_the_pictures_that_fit_the_prompt_are_read(model, folder):
    use(model, str(folder))
    assert len(model.like_hashes) == 16
    text = model.runtime.encode("a red ball")
    _, features = store_of(model.runtime, files_of(folder, 16))
    nearest = set(np.argsort(-(features @ text.text_features), kind="stable")[:6].tolist())
    read: set[int] = set()
    for picture in model.pictures([Wish("a red ball", seed, steps=1) for seed in range(12)]):
        assert len(picture.recipe.read) == 3
        read |= set(picture.recipe.read)
    assert len(read) > 3  # seeds pick different ones
    assert read <= nearest


def test_a_picture_drawn_after_others_is_the_same_in_any_batch(model, folder):
    use(model, str(folder))
    wishes = [Wish(text, seed, steps=2) for seed, text in enumerate(["a red ball", "blue", "bar"])]
    together = model.pictures(wishes)
    for wish, one in zip(wishes, together, strict=True):
        alone = model.pictures([wish])[0]
        assert np.array_equal(alone.pixels, one.pixels)
        assert alone.recipe.read == one.recipe.read


def test_what_cannot_be_drawn_after_is_refused(model, folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no picture in this folder"):
        use(model, str(tmp_path))
    with pytest.raises(UsageError, match="exclude each other"):
        use(model, str(folder), 0)
    with pytest.raises(InputError, match="cannot be read"):
        use(model, str(folder / "none.png"))
    with pytest.raises(InputError):
        use(model, str(folder / "notes.txt"))
    monkeypatch.setattr("t2i_cli.like.MOST", 15)
    with pytest.raises(UsageError, match="16 pictures"):
        use(model, str(folder))
    assert MOST == 1000
    assert model.like is None and model.like_hashes == ()


@pytest.fixture
def t2i(cli, weights, tmp_path):
    load(weights, "cpu")  # its graph is in the cache

    def run(*arguments, **more):
        return cli("sample", *arguments, cwd=tmp_path, T2I_MODEL=str(weights), **more)

    return run


def test_a_picture_drawn_after_others_is_made_again_from_them(t2i, folder, tmp_path):
    asked = ("blue", "--like", folder, "--steps", "2", "--seed", "4")
    done = t2i(*asked, "-o", "x.png", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    recipe = recipe_of(str(tmp_path / "x.png"))
    assert recipe.read == tuple(row["references"]) and len(recipe.read) == 3
    assert len(recipe.like) == 16
    alone = t2i("--from", "x.png", "-o", "y.png")
    assert (alone.returncode, alone.stdout) == (2, "")
    assert "--like FILE|FOLDER" in alone.stderr
    others = t2i("--from", "x.png", "--like", folder / "03.png", "-o", "y.png")
    assert (others.returncode, others.stdout) == (2, "")
    again = t2i("--from", "x.png", "--like", folder, "-o", "y.png")
    assert (again.returncode, again.stdout) == (0, "y.png\n"), again.stderr
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--like", "nowhere.png"], 3, "nowhere.png: cannot be read"),
        (["--like", "notes.txt"], 3, "notes.txt"),
        (["--like", "empty"], 2, "no picture in this folder"),
        (["--like", "notes.txt", "--references", "0"], 2, "exclude each other"),
    ],
)
def test_errors_of_the_command_are_one_line(t2i, tmp_path, arguments, code, says):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    done = t2i("blue", *arguments, "-o", "x.png")
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("t2i: error: ") and done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (tmp_path / "x.png").exists()
