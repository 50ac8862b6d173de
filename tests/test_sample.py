import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import images, metadata, relatives
from t2i_cli.errors import (
    InputError,
    OutputError,
    PartialError,
    PromptError,
    UsageError,
    WeightsError,
)
from t2i_cli.noise import MAX_SEED
from t2i_cli.prompts import LineReader, Request
from t2i_cli.relatives import morph
from t2i_cli.sample import (
    Failed,
    Made,
    Options,
    Skipped,
    Wish,
    colour,
    draw,
    following,
    load,
    outcome,
    recipe_of,
    same_model,
)
from t2i_cli.solver import DEFAULT_GUIDANCE, DEFAULT_STEPS
from tests.toy_weights import save_toy


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_toy(tmp_path_factory.mktemp("weights") / "toy.safetensors")


@pytest.fixture(autouse=True)
def model(weights, _own_world):
    """The model; its graph is in the cache before any command starts."""
    return load(weights, "cpu")


def array(image):
    return np.asarray(image)


# --- the public door


def test_one_prompt_one_picture(model):
    picture = model.sample("a red ball", 3)
    assert (picture.mode, picture.size) == ("RGBA", (32, 32))
    assert np.array_equal(array(picture), array(model.sample("a red ball", 3)))
    assert not np.array_equal(array(picture), array(model.sample("a red ball", 4)))
    assert not np.array_equal(array(picture), array(model.sample("blue", 3)))


def test_a_model_of_opaque_pictures_writes_rgb(model, monkeypatch, tmp_path):
    clear = array(model.sample("a red ball", 3)).astype(int)
    opaque = dataclasses.replace(model.runtime.config, opaque=True)
    monkeypatch.setattr(model.runtime, "config", opaque)
    picture = model.sample("a red ball", 3)
    assert picture.mode == "RGB"
    on_white = clear[..., :3] * clear[..., 3:] / 255 + 255 - clear[..., 3:]
    assert np.abs(array(picture) - on_white).max() <= 1
    (made,) = draw(model, [Request("a red ball")], Options(out=str(tmp_path / "x.png"), seed=3))
    assert images.decode((tmp_path / "x.png").read_bytes(), name="x").shape == (32, 32, 3)
    assert made.picture.pixels.shape == (32, 32, 3)


def test_many_are_what_one_by_one_gives(model):
    seeds = [5, 1, MAX_SEED, 7, 7, 2, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31]
    many = model.sample_many("a red ball", seeds)
    for seed, picture in zip(seeds, many, strict=True):
        assert np.array_equal(array(picture), array(model.sample("a red ball", seed)))
    assert model.sample_many([], []) == []


def test_guidance_and_negative(model):
    plain = array(model.sample("a red ball", 1))
    assert np.array_equal(plain, array(model.sample("a red ball", 1, guidance=DEFAULT_GUIDANCE)))
    alone, away = (
        array(model.sample("a red ball", 1, guidance=1.0, negative=negative))
        for negative in (None, "blue")
    )
    assert np.array_equal(alone, away)  # without guidance there is nothing to go away from
    assert not np.array_equal(plain, alone)
    assert not np.array_equal(plain, array(model.sample("a red ball", 1, negative="blue")))


def test_steps(model):
    wanted = array(model.sample("a red ball", 1))
    assert np.array_equal(wanted, array(model.sample("a red ball", 1, steps=DEFAULT_STEPS)))
    for steps in (1, DEFAULT_STEPS + 1):
        assert not np.array_equal(wanted, array(model.sample("a red ball", 1, steps=steps)))


def test_styles(model):
    plain, bold, light = (
        array(model.sample("a red ball", 1, style=style)) for style in (None, "bold", "light")
    )
    assert not np.array_equal(bold, light)
    assert np.array_equal(plain, array(model.sample("a red ball", 1, style="none")))  # no default
    assert np.array_equal(bold, array(model.sample("a red ball", 1, attributes="style=bold")))
    with pytest.raises(UsageError, match="style bald: toy knows no such style") as told:
        model.sample("a red ball", style="bald")
    assert "nearest: bold" in told.value.hint
    with pytest.raises(UsageError, match="toy was trained without season") as told:
        model.sample("a red ball", attributes="season=winter")
    assert "it knows: style" in told.value.hint
    with pytest.raises(UsageError, match="expected NAME=VALUE"):
        model.sample("a red ball", attributes="winter")


def test_a_value_with_a_comma_is_asked_for_and_made_again(tmp_path, model):
    from dataclasses import replace

    attribute = replace(model.runtime.config.attributes[0], values=("ink, on paper", "oil"))
    other = load(save_toy(tmp_path / "x.safetensors", attributes=(attribute,)), "cpu")
    (made,) = events(other, [Request("blue")], out=f"{tmp_path}/x.png", style="ink, on paper")
    assert made.row()["style"] == "ink, on paper"
    request, options = following(recipe_of(made.path), Options(out=f"{tmp_path}/again.png"))
    (again,) = list(draw(other, [request], options))
    assert Path(made.path).read_bytes() == Path(again.path).read_bytes()


def test_a_model_without_styles_says_so(tmp_path):
    bare = load(save_toy(tmp_path / "bare.safetensors", attributes=(), references=False), "cpu")
    with pytest.raises(UsageError, match="toy was trained without style") as told:
        bare.sample("a red ball", style="bold")
    assert "--attributes" in told.value.hint
    assert bare.pictures([Wish("a red ball", 1)])[0].recipe.read == ()


def test_the_default_style_is_the_models(tmp_path, model):
    from dataclasses import replace

    attribute = replace(model.runtime.config.attributes[0], default="light")
    other = load(save_toy(tmp_path / "light.safetensors", attributes=(attribute,)), "cpu")
    for style, asked in (("light", None), ("bold", "bold"), (None, "none")):
        wanted = array(model.sample("a red ball", 1, style=style))
        assert np.array_equal(wanted, array(other.sample("a red ball", 1, style=asked)))


def test_references(model):
    asked = [Wish("a red ball", seed, references=count) for count in (0, 1, 3) for seed in (1, 2)]
    pictures = model.pictures(asked)
    assert [len(one.recipe.read) for one in pictures] == [0, 0, 1, 1, 3, 3]
    assert len({one.pixels.tobytes() for one in pictures}) == 6
    assert pictures[4].recipe.read != pictures[5].recipe.read  # seeds pick different ones
    assert np.array_equal(
        pictures[1].pixels, array(model.sample("a red ball", 2, references=0))
    )  # it draws without them


def test_opaque_models_write_rgb(tmp_path):
    opaque = load(save_toy(tmp_path / "opaque.safetensors", opaque=True), "cpu")
    assert opaque.sample("blue", 1).mode == "RGB"
    (made,) = events(opaque, [Request("blue")], out=f"{tmp_path}/x.png")
    assert images.decode(Path(made.path).read_bytes(), name="x").shape == (32, 32, 3)
    frames = morph(opaque, Wish("blue", 1, steps=1), "a red ball", 2)
    assert frames[0].shape == (32, 32, 3)


def test_truncation_to_nothing_leaves_one_picture(model):
    a, b = (
        array(model.sample("a red ball", seed, truncation=0.0, references=0)) for seed in (1, 2)
    )
    assert np.array_equal(a, b)  # a seed picks references too


def test_best_of_keeps_the_nearest(model):
    wish = Wish("a red ball", 10, best_of=6)
    (picture,) = model.pictures([wish])
    runtime = model.runtime
    text = runtime.encode("a red ball")
    scores = []
    for seed in range(10, 16):
        (drawn,) = runtime.draw([model.row(Wish("a red ball", seed), seed)])
        scores.append(float(runtime.image_features(drawn.image[None])[0] @ text.text_features))
    assert picture.recipe.picked == 10 + int(np.argmax(scores))
    assert np.array_equal(picture.pixels, array(model.sample("a red ball", picture.recipe.picked)))


def test_scale_and_background(model):
    small, big = (array(model.sample("blue", 1, scale=scale)) for scale in (1, 3))
    assert np.array_equal(big, small.repeat(3, 0).repeat(3, 1))
    flat = array(model.sample("blue", 1, background="#ff8000"))
    assert flat.shape[2] == 3
    assert np.array_equal(flat, images.flatten(small, (255, 128, 0)))


@pytest.mark.parametrize(
    ("name", "rgb"),
    [
        ("white", (255, 255, 255)),
        ("#abc", (170, 187, 204)),
        ("00ff00", (0, 255, 0)),
        ("none", None),
        ("", None),
    ],
)
def test_colours(name, rgb):
    assert colour(name) == rgb


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"seed": -1}, {"seed": MAX_SEED + 1}, {"guidance": -1.0}, {"guidance": float("nan")}, {"best_of": 0},
     {"scale": 0}, {"scale": 65}, {"truncation": float("inf")}, {"background": "mauvish"}, {"format": "bmp"},
     {"steps": 0}, {"steps": 1001}, {"references": -1}, {"references": 17}, {"attributes": "winter"},
     {"attributes": "=x"}, {"attributes": "season="},
     {"overwrite": True, "skip_existing": True}, {"shard": (0, 3)}, {"shard": (4, 3)}, {"out": "{nope}.png"},
     {"out": "a.txt"}, {"out": "a.png", "format": "webp"}],
)  # fmt: skip
def test_options_out_of_range_are_usage_errors(wrong):
    with pytest.raises(UsageError):
        Options(**wrong)


def test_bad_calls(model):
    with pytest.raises(PromptError):
        model.sample("  ")
    with pytest.raises(UsageError):
        model.sample("a", -1)
    with pytest.raises(UsageError):
        model.sample_many(["a"], [1, 2])
    with pytest.raises(PromptError):
        model.sample("a", MAX_SEED, best_of=2)


# --- the stream


def events(model, source, **options):
    return list(draw(model, source, Options(**options)))


def test_each_picture_is_there_when_it_is_reported(model, tmp_path):
    out = f"{tmp_path}/{{i:05}}-{{slug}}-{{seed}}.png"
    for event in draw(
        model, [Request("a red ball"), Request("blue", seed=5, n=20)], Options(out=out, n=2)
    ):
        assert isinstance(event, Made)
        data = Path(event.path).read_bytes()
        assert np.array_equal(
            images.decode(data, name="x").reshape(-1)[:4], event.picture.pixels.reshape(-1)[:4]
        )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:3] == ["00000-a-red-ball-0.png", "00001-a-red-ball-1.png", "00002-blue-5.png"]
    assert len(names) == 22
    single = array(model.sample("blue", 24))
    assert np.array_equal(
        images.decode((tmp_path / "00021-blue-24.png").read_bytes(), name="x"), single
    )


def test_the_first_picture_does_not_wait_for_the_second_line(model, tmp_path):
    read, write = os.pipe()
    os.write(write, b"a red ball\n\n{bad\n")
    stream = draw(model, LineReader(read), Options(out=f"{tmp_path}/"))
    late = threading.Timer(20, os.close, [write])
    late.start()
    start = time.monotonic()
    first = next(stream)
    assert isinstance(first, Made)
    assert isinstance(next(stream), Failed)
    os.write(write, b"blue\n")
    assert next(stream).picture.recipe.prompt == "blue"
    assert time.monotonic() - start < 15
    late.cancel()
    os.close(write)
    assert list(stream) == []
    os.close(read)


def test_existing_files(model, tmp_path):
    request = [Request("blue")]
    first = events(model, request, out=f"{tmp_path}/x.png")
    before = (tmp_path / "x.png").read_bytes()
    (refused,) = events(model, [Request("a red ball")], out=f"{tmp_path}/x.png")
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, OutputError)
    assert events(model, request, out=f"{tmp_path}/x.png", skip_existing=True) == [
        Skipped(f"{tmp_path}/x.png")
    ]
    assert (tmp_path / "x.png").read_bytes() == before
    (again,) = events(model, request, out=f"{tmp_path}/x.png", overwrite=True)
    assert isinstance(first[0], Made)
    assert isinstance(again, Made)
    assert (tmp_path / "x.png").read_bytes() == before


@pytest.mark.parametrize("out", ["{}/x.png", "-"])
def test_several_pictures_for_one_path(model, tmp_path, out):
    for requests, n in (
        ([Request("a"), Request("b")], 1),
        ([Request("a")], 2),
        ([Request("a", n=2)], 1),
    ):
        with pytest.raises(UsageError, match="several"):
            events(model, requests, out=out.format(tmp_path), n=n)
    assert list(tmp_path.iterdir()) == []


def test_a_request_names_its_own_file_inside_the_folder(model, tmp_path):
    requests = [
        Request("a", out="own.webp"), Request("b", out="sub/{seed}.jpg", n=2), Request("c", out="../c.png"),
        Request("d", out="/tmp/d.png"), Request("e", out="e.png", n=2), Request("f", out="{nope}"),
        Request("g", out="x.exe"),
    ]  # fmt: skip
    got = events(model, requests, out=f"{tmp_path}/")
    assert [type(event) for event in got[:3]] == [Made] * 3 or sum(
        isinstance(e, Made) for e in got
    ) == 3
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == [
        "own.webp",
        "sub/0.jpg",
        "sub/1.jpg",
    ]
    assert sum(isinstance(event, Failed) for event in got) == 5


def test_shards_part_the_whole(model, tmp_path):
    requests = [Request(f"a {k} ball", n=1 + k % 2) for k in range(7)]
    events(model, requests, out=f"{tmp_path}/all/{{i}}.png")
    for k in (1, 2, 3):
        events(model, requests, out=f"{tmp_path}/parts/{{i}}.png", shard=(k, 3))
    whole = {path.name: path.read_bytes() for path in (tmp_path / "all").iterdir()}
    assert len(whole) == 10
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}


def test_ids_and_long_names(model, tmp_path):
    requests = [
        Request("x", id="../../etc"),
        Request("word " * 400),
        Request("-rf"),
        Request("con"),
        Request("y\0\x1b[31m"),
    ]
    got = events(model, requests, out=f"{tmp_path}/{{i}}-{{slug}}.png")
    assert all(isinstance(event, Made) for event in got)
    (made,) = events(model, requests[:1], out=f"{tmp_path}/{{id}}.png")
    assert made.path == f"{tmp_path}/etc.png"
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path}


def test_a_full_disk_ends_the_stream_and_loses_nothing(model, tmp_path, monkeypatch):
    import errno

    from t2i_cli import sample

    real, count = sample.write_new, [0]

    def fills(path, data, **more):
        count[0] += 1
        if count[0] > 3:
            raise OutputError(f"{path}: full") from OSError(errno.ENOSPC, "full")
        return real(path, data, **more)

    monkeypatch.setattr(sample, "write_new", fills)
    seen = []
    with pytest.raises(OutputError):
        for event in draw(model, [Request("a", n=9)], Options(out=f"{tmp_path}/{{i}}.png")):
            seen.append(event.path)
    assert len(seen) == 3
    assert all(Path(path).stat().st_size > 100 for path in seen)


def test_outcome():
    bad = Failed(PromptError("no"))
    assert outcome(3, []) is None
    with pytest.raises(PartialError):
        outcome(1, [bad])
    with pytest.raises(PromptError):
        outcome(0, [bad])
    with pytest.raises(PromptError, match="all 2"):
        outcome(0, [bad, bad])


def test_unknown_words_are_read_as_known_ones(model, tmp_path):
    same = array(model.sample("a red ball", 5, guidance=2, negative="a blue bar"))
    other = array(model.sample("a crimson orb", 5, guidance=2, negative="an azure bar"))
    assert np.array_equal(same, other)
    letters = array(
        model.sample("a crimson orb", 5, guidance=2, negative="an azure bar", literal=True)
    )
    assert not np.array_equal(same, letters)
    known = array(model.sample("a red ball", 5, guidance=2, negative="a blue bar", literal=True))
    assert np.array_equal(same, known)
    wishes = [
        Wish("a crimson orb", 1),
        Wish("a crimson orb", 1, literal=True),
        Wish("a red ball", 1),
    ]
    read, literal, plain = model.pictures(wishes)
    assert (read.read_as, literal.read_as, plain.read_as) == ("a red ball", "", "")
    assert np.array_equal(read.pixels, plain.pixels)
    assert read.recipe.prompt == "a crimson orb"  # what was asked for is what is kept
    first, last = morph(model, Wish("a crimson orb", 1), "an azure bar", 2)
    assert np.array_equal(first, read.pixels)
    assert np.array_equal(last, array(model.sample("a blue bar", 1)))


@pytest.mark.parametrize("literal", [False, True])
def test_a_picture_of_unknown_words_is_made_again(model, tmp_path, literal):
    (made,) = events(model, [Request("a crimson orb")], out=f"{tmp_path}/x.png", literal=literal)
    assert made.row().get("read_as") == (None if literal else "a red ball")
    recipe = recipe_of(made.path)
    assert recipe.literal is literal
    request, options = following(recipe, Options(out=f"{tmp_path}/again.png"))
    (again,) = list(draw(model, [request], options))
    assert Path(made.path).read_bytes() == Path(again.path).read_bytes()


@pytest.mark.parametrize("format", ["png", "webp", "jpg"])
def test_from_makes_the_same_bytes(model, tmp_path, format):
    asked = {
        "guidance": 2.5,
        "steps": 5,
        "style": "bold",
        "references": 2,
        "negative": "a green bar",
        "best_of": 3,
        "scale": 2,
        "background": "#102030",
        "truncation": 0.8,
    }
    (made,) = events(
        model, [Request("a 'red' ball 🎈", seed=41)], out=f"{tmp_path}/x.{format}", **asked
    )
    recipe = recipe_of(made.path)
    assert (recipe.steps, recipe.attributes, recipe.references) == (5, "style=bold", 2)
    assert len(recipe.read) == 2
    request, options = following(recipe, Options(out=f"{tmp_path}/again.{format}"))
    same_model(model, recipe, "x")
    (again,) = list(draw(model, [request], options))
    assert Path(made.path).read_bytes() == Path(again.path).read_bytes()


def test_from_refuses_another_model_and_other_pictures(model, tmp_path):
    (made,) = events(model, [Request("blue")], out=f"{tmp_path}/x.png")
    recipe = recipe_of(made.path)
    other = load(save_toy(tmp_path / "other.safetensors", seed=1), "cpu")
    with pytest.raises(WeightsError, match="made by"):
        same_model(other, recipe, "x.png")
    events(model, [Request("blue")], out=f"{tmp_path}/bare.png", metadata=False)
    for bad in ("bare.png", "none.png", "other.safetensors"):
        with pytest.raises(InputError):
            recipe_of(f"{tmp_path}/{bad}")


def test_no_metadata_keeps_prompt_and_seed_out(model, tmp_path):
    for format in ("png", "webp", "jpg"):
        (made,) = events(
            model,
            [Request("secretword", seed=987654321)],
            out=f"{tmp_path}/{format}.{format}",
            metadata=False,
        )
        data = Path(made.path).read_bytes()
        assert b"secretword" not in data
        assert b"987654321" not in data
        assert metadata.GENERATED in images.read_text(data, name="x").xmp


# --- the command


def environment(weights):
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "T2I_MODEL": str(weights), "PYTHONPATH": root}


@pytest.fixture
def t2i(cli, weights, tmp_path):
    def run(*arguments, **more):
        return cli("sample", *arguments, cwd=tmp_path, T2I_MODEL=str(weights), **more)

    return run


def test_the_command_prints_paths_and_json(t2i, tmp_path):
    done = t2i("a red ball", "-n", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a-red-ball-0.png\na-red-ball-1.png\n"
    done = t2i(
        "-", "-o", "x/{i:03}.webp", "--json", input='{"prompt": "blue", "id": 7}\n{"prompt"\nred\n'
    )
    assert done.returncode == 4
    assert "line 2" in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == ["x/000.webp", "x/001.webp"]
    assert {"path", "prompt", "seed", "model", "width", "height", "ms", "unknown_tokens"} <= set(
        rows[0]
    )
    assert len(rows[0]["references"]) == 3
    assert "style" not in rows[0]
    told = t2i("a crimson orb", "--json", "-v")
    assert json.loads(told.stdout)["read_as"] == "a red ball"
    assert "read as: a red ball" in told.stderr
    silent = t2i("a crimson orb", "-f")
    assert (silent.returncode, silent.stderr) == (0, "")  # a script that does not ask is not told
    literal = t2i("a crimson orb", "--json", "--literal", "-f")
    assert "read_as" not in json.loads(literal.stdout)
    assert t2i("-", "-o", "z/{i:03}.png", input=told.stdout).returncode == 0
    again = t2i("-", "-o", "y/{i:03}.webp", input=done.stdout)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "x/001.webp").read_bytes() == (tmp_path / "y/001.webp").read_bytes()


def test_styles_steps_and_references_from_the_command(t2i, tmp_path, weights):
    asked = ("--style", "bold", "--steps", "2", "--references", "2")
    (row,) = map(json.loads, t2i("blue", *asked, "--json", "-o", "x.png").stdout.splitlines())
    assert (row["style"], len(row["references"])) == ("bold", 2)
    recipe = recipe_of(str(tmp_path / "x.png"))
    assert (recipe.attributes, recipe.steps, recipe.read) == (
        "style=bold",
        2,
        tuple(row["references"]),
    )
    text = images.read_text((tmp_path / "x.png").read_bytes(), name="x").text["parameters"]
    assert "Steps: 2, Sampler: t2i flow" in text
    assert f"References: {' '.join(map(str, row['references']))}" in text
    lines = json.dumps(row) + "\n" + json.dumps({"prompt": "blue", "style": "light"}) + "\n"
    again = t2i("-", *asked[2:], "--json", "-o", "{i}.png", input=lines)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "x.png").read_bytes()
    assert json.loads(again.stdout.splitlines()[1])["style"] == "light"
    none = t2i("blue", "--references", "0", "--json", "-o", "none.png")
    assert none.returncode == 0
    assert "references" not in json.loads(none.stdout)
    for wrong, why in (
        (["--style", "bald"], "nearest: bold"),
        (["--attributes", "season=winter"], "trained without season"),
        (["--attributes", "winter"], "expected NAME=VALUE"),
        (["--steps", "0"], "use 1 to 1000"),
        (["--steps", "some"], "auto or a whole number"),
        (["--references", "17"], "use 0 to 16"),
    ):
        done = t2i("blue", *wrong, "-o", "wrong.png")
        assert (done.returncode, done.stdout) == (2, ""), (wrong, done.stderr)
        assert done.stderr.count("\n") == 1
        assert why in done.stderr
    assert not (tmp_path / "wrong.png").exists()
    lines = '{"prompt": "red", "style": "bald"}\nblue\n{"prompt": "red", "style": "bold"}\n'
    one_bad = t2i("-", "-o", "{i}-b.png", input=lines)  # it costs that line alone
    assert one_bad.returncode == 4, one_bad.stderr
    assert one_bad.stdout == "1-b.png\n2-b.png\n"
    assert "line 1: style bald: toy knows no such style; nearest: bold" in one_bad.stderr


def test_a_picture_to_a_pipe_and_usage_errors(weights, tmp_path):
    env = environment(weights)
    command = [sys.executable, "-m", "t2i_cli", "sample"]
    done = subprocess.run(
        [*command, "blue", "-o", "-"],
        capture_output=True,
        env=env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.startswith(b"\x89PNG")
    for wrong in (
        ["a", "b", "-o", "x.png"],
        ["a", "-o", "-", "--json"],
        ["a", "-i", "x"],
        ["a", "--grid", "--morph", "b"],
        ["a", "--shard", "x"],
        ["a", "--seed", "x"],
        ["a", "-", "b"],
        ["a", "--nope"],
        ["a", "-n", "x"],
        ["a", "--morph", "b", "-o", "x.png"],
        ["a", "--like", ".", "--references", "0"],
    ):
        done = subprocess.run(
            [*command, *wrong],
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 2, wrong
        assert done.stderr.startswith("t2i: error: ")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_sheets_and_animations(t2i, tmp_path):
    assert t2i("a red ball", "blue", "-n", "3", "--grid", "-o", "sheet.png").stdout == "sheet.png\n"
    assert images.decode((tmp_path / "sheet.png").read_bytes(), name="x").shape[2] == 3
    done = t2i("a red ball", "--morph", "blue", "-o", "m.gif", "--frames", "3")
    assert (done.stdout, done.stderr) == ("m.gif\n", "")
    assert t2i("a red ball", "--morph", "blue", "-o", "m.gif").returncode == 1


def test_a_sheet_of_prompts_by_seeds_has_a_row_a_prompt(t2i, tmp_path):
    assert t2i("a red ball", "blue", "-n", "3", "--grid", "-o", "sheet.png").returncode == 0
    height, width, _ = images.decode((tmp_path / "sheet.png").read_bytes(), name="x").shape
    assert (width, height) == (8 + 3 * (96 + 8), 8 + 2 * (96 + 32 + 8))
    assert relatives._columns(["a"] * 16) == 4
    assert relatives._columns(["a"] * 4 + ["b"] * 4) == 4
    assert relatives._columns(["a", "b", "c", "d"]) == 2
    assert relatives._columns(["a", "a", "b"]) == 2


def test_prompts_of_every_form_are_drawn_and_strange_ones_are_told(t2i, tmp_path):
    (tmp_path / "list.csv").write_text('prompt,seed,stile\n"a red ball","7",flat\nzwixqua,,\n')
    done = t2i("-i", "list.csv", "-o", "o/{i}.png", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["prompt"], row["seed"]) for row in rows] == [("a red ball", 7), ("zwixqua", 0)]
    assert "the field stile is not known" in done.stderr
    assert "the model knows no word of this prompt: zwixqua" in done.stderr
    assert "no word of this prompt: a red ball" not in done.stderr


def test_replay_from_the_command(t2i, tmp_path):
    t2i("a red ball", "--seed", "9", "-o", "x.png")
    assert t2i("--from", "x.png", "-o", "y.png").stdout == "y.png\n"
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()


@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_a_sheet_is_made_again(t2i, tmp_path, ending):
    rows = [
        {"prompt": "a red ball", "n": 2},
        {"prompt": "blue", "seed": 7, "negative": "a bar", "style": "bold"},
        {"prompt": "blue", "seed": 7, "style": "light"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ("--grid", "--best-of", "2", "--scale", "2", "--background", "teal", "--steps", "2")
    assert t2i("-i", "rows.jsonl", *asked, "-o", f"x.{ending}").returncode == 0
    assert 3 <= len(recipe_of(str(tmp_path / f"x.{ending}")).read) <= 12  # of all its pictures
    done = t2i("--from", f"x.{ending}", "-o", f"y.{ending}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"y.{ending}\n", "")
    assert (tmp_path / f"x.{ending}").read_bytes() == (tmp_path / f"y.{ending}").read_bytes()


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_an_animation_is_made_again(t2i, tmp_path, ending):
    asked = ("--frames", "3", "--seed", "5", "--truncation", "0.9", "--negative", "a bar")
    assert t2i("a red ball", "--morph", "blue", *asked, "-o", f"x.{ending}").returncode == 0
    done = t2i("--from", f"x.{ending}", "-o", f"y.{ending}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"y.{ending}\n", "")
    assert (tmp_path / f"x.{ending}").read_bytes() == (tmp_path / f"y.{ending}").read_bytes()
    assert t2i("--from", f"x.{ending}", "-o", "y.png").returncode == 2
    assert t2i("a", "--morph", "b", "--no-metadata", "--frames", "2", "-o", f"z.{ending}").stdout
    assert "t2i" not in images.read_text((tmp_path / f"z.{ending}").read_bytes(), name="z").text


def test_a_relative_is_made_again_from_its_source(t2i, tmp_path):
    assert t2i("a red ball", "-o", "source.png").returncode == 0
    asked = ("--strength", "0.5", "-n", "2", "--seed", "3", "-o", "r{seed}.png")
    assert t2i("--vary", "source.png", *asked).stdout == "r3.png\nr4.png\n"
    alone = t2i("--from", "r4.png", "-o", "again.png")
    assert (alone.returncode, alone.stdout) == (2, "")
    assert "--vary SOURCE" in alone.stderr
    other = t2i("--from", "r4.png", "--vary", "r3.png", "-o", "again.png")
    assert (other.returncode, other.stdout) == (3, "")
    assert t2i("--from", "source.png", "--vary", "r3.png", "-o", "again.png").returncode == 2
    done = t2i("--from", "r4.png", "--vary", "source.png", "-o", "again.png")
    assert (done.returncode, done.stdout) == (0, "again.png\n")
    assert (tmp_path / "r4.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_a_prompt_that_names_a_file_of_prompts_is_told(t2i, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ball\nblue\n")
    done = t2i("-f", "prompts.txt", "-o", "x.png")
    assert (done.returncode, done.stdout) == (0, "x.png\n")
    assert "-i prompts.txt" in done.stderr
    assert "-i missing.txt" not in t2i("-f", "missing.txt", "-o", "x.png").stderr


def test_a_reader_that_goes_loses_no_picture(weights, tmp_path):
    env = environment(weights)
    prompts = "".join(f"ball {k}\n" for k in range(40))
    line = f"{sys.executable} -m t2i_cli sample - -o out/{{i}}.png | head -1"
    done = subprocess.run(
        ["bash", "-c", line], input=prompts, capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("out/0.png\n", "")
    assert len(list((tmp_path / "out").iterdir())) == 40


@pytest.mark.parametrize(
    ("line", "printed", "made"),
    [
        ("yes x | {t2i} - -o '{{i}}.png' | head -3", 3, None),  # the reader leaves
        ("yes x | {t2i} - | head -3", 1, 1),  # one name: no line but the first can be written
        ("yes x | {t2i} - --skip-existing | head -3", 1, 1),
        ("yes '' | {t2i} - | head -3", 0, 0),
        ("yes '{{' | {t2i} - | head -3", 0, 0),
        ("yes x | {t2i} - --morph y -o m.gif", 0, 0),
    ],
)
def test_an_endless_pipe_ends(weights, tmp_path, line, printed, made):
    command = line.format(t2i=f"{sys.executable} -m t2i_cli sample")
    for again in (False, True):  # also where the picture is there from the start
        if again and made is None:
            continue
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, env=environment(weights),
            cwd=tmp_path, timeout=60,
        )  # fmt: skip
        assert len(done.stdout.splitlines()) == (0 if again else printed)
        assert len(done.stderr.splitlines()) < 20
        assert "Traceback" not in done.stderr
    pictures = list(tmp_path.iterdir())
    assert 3 <= len(pictures) < 100 if made is None else len(pictures) == made


def test_a_pipe_that_has_ended_is_read_whole_however_often_it_says_the_same(weights, tmp_path):
    lines = "ball\n" * 3000 + "bar\n"
    done = subprocess.run(
        [sys.executable, "-m", "t2i_cli", "sample", "-", "-q"], input=lines, capture_output=True,
        text=True, env=environment(weights), cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "ball-0.png\nbar-0.png\n"
    assert "2,999 prompts failed; 2 pictures are written" in done.stderr
    assert done.returncode == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stdout_is_told(weights, tmp_path):
    env = environment(weights)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "t2i_cli", "sample", "blue"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=env,
            cwd=tmp_path,
        )
    assert done.returncode == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_was_reported_whole(weights, tmp_path, number, code):
    env = environment(weights)
    process = subprocess.Popen(
        [sys.executable, "-m", "t2i_cli", "sample", "a", "-n", "100000", "-o", "out/{i}.png"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=tmp_path,
    )
    reported = [process.stdout.readline() for _ in range(20)]
    process.send_signal(number)
    rest, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    for path in [*reported, *rest.splitlines()]:
        images.decode((tmp_path / path.strip()).read_bytes(), name=path)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_hostile_prompts_print_no_control_byte(t2i):
    hostile = "\x1b[31mred\x07 \u202ecat [bold]x[/bold] %s {0} $(id)\n"
    done = t2i(
        "-", "-o", "out/", input=hostile + '{"prompt": "x", "\\u001b[2J": 1, "seed": "\\u001b"}\n'
    )
    assert done.returncode == 4
    assert not set(done.stdout + done.stderr) & {"\x1b", "\x07", "\u202e"}


def test_without_a_prompt(t2i, tmp_path):
    done = t2i()
    assert done.returncode == 3
    assert "no prompt" in done.stderr


def test_the_plain_way_to_a_model_agrees_with_the_whole_one(weights, tmp_path, monkeypatch):
    from t2i_cli.checkpoint import resolve_model, shipped_models
    from t2i_cli.folders import plain_model

    assert plain_model(weights) == resolve_model(weights)
    for name in (tmp_path, "no-such-model", "hf:x/y"):
        assert plain_model(name) is None
    monkeypatch.setenv("T2I_MODEL", str(weights))
    assert plain_model(None) == resolve_model(None)
    monkeypatch.delenv("T2I_MODEL")
    if shipped_models():
        assert plain_model(None) in (None, resolve_model(None))
