import dataclasses
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from t2i_cli.checkpoint import load_model
from t2i_cli.config import PRESETS, model_config
from t2i_cli.errors import UsageError, WeightsError
from t2i_cli.folders import cache_folder
from t2i_cli.images import decode, flatten
from t2i_cli.noise import noise_for
from t2i_cli.pixels import to_pixels
from t2i_cli.references import COUNT
from t2i_cli.runtime import MAX_BATCH, Row, open_runtime
from t2i_cli.runtime.base import slerp
from t2i_cli.runtime.graphs import _config_key, bundle_for
from t2i_cli.runtime.onnx_runtime import OnnxRuntime
from t2i_cli.runtime.torch_runtime import TorchRuntime
from t2i_cli.sample import load
from t2i_cli.solver import solve
from tests.test_checkpoint_references import forged
from tests.toy_weights import save_toy
from tests.toys import toy_config, toy_tokenizer

PROMPTS = ["a red ball", "", "blue", "a yellow cross, a green bar and a blue square " * 3, "ein 🦊"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_toy(tmp_path_factory.mktemp("weights") / "toy.safetensors")


def opened(kind, path):
    """A runtime of either kind on the CPU."""
    found = open_runtime(path, "cpu") if kind is OnnxRuntime else TorchRuntime.open(path, "cpu")
    assert isinstance(found, kind)
    return found


def rows_of(runtime, prompts, **asked):
    """A row a prompt, seeds 0, 1, 2 and so on."""
    asked = {"steps": 3, **asked}
    return [Row(runtime.encode(prompt), seed, **asked) for seed, prompt in enumerate(prompts)]


def images_of(runtime, rows):
    return [one.image for one in runtime.draw(rows)]


def seen(image):
    """An image on white, as a person sees it: int (h, w, 3)."""
    return flatten(to_pixels(image[None])[0]).astype(int)


def agree(path, prompts=PROMPTS, **asked):
    """Both runtimes read the same, draw from the same pictures, and draw the same within 2 of 255 levels."""
    onnx, reference = opened(OnnxRuntime, path), opened(TorchRuntime, path)
    both = [runtime.draw(rows_of(runtime, prompts, **asked)) for runtime in (onnx, reference)]
    for prompt, a, b in zip(prompts, *both, strict=True):
        assert a.references == b.references
        assert np.isfinite(a.image).all()
        assert np.abs(seen(a.image) - seen(b.image)).max() <= 2
        text, other = onnx.encode(prompt), reference.encode(prompt)
        for name in ("text_features", "query", "condition"):
            assert np.abs(getattr(text, name) - getattr(other, name)).max() < 1e-3
        assert (text.unknown_tokens, text.cut) == (other.unknown_tokens, other.cut)
    images = np.stack([one.image for one in both[0]]).clip(-1, 1)
    assert np.abs(onnx.image_features(images) - reference.image_features(images)).max() < 1e-3
    assert np.abs(onnx.latents(images) - reference.latents(images)).max() < 1e-3
    return both[0]


@pytest.mark.parametrize(
    "asked", [{}, {"guidance": 1.0}, {"references": 0}, {"references": 1, "steps": 1}]
)
def test_onnx_runtime_draws_what_torch_draws(weights, asked):
    assert {len(one.references) for one in agree(weights, **asked)} == {
        asked.get("references", COUNT)
    }


def test_a_model_without_attributes_and_references_too(tmp_path):
    bare = save_toy(tmp_path / "bare.safetensors", opaque=True, attributes=(), references=False)
    assert {one.references for one in agree(bare, PROMPTS[:2])} == {()}


@pytest.mark.slow
@pytest.mark.parametrize("size", list(PRESETS))
def test_every_preset_draws_what_torch_draws(size, tmp_path):
    config = model_config(size, 64, vocab_size=toy_tokenizer().vocab_size)
    path = save_toy(tmp_path / "x.safetensors", config=config)
    large = size == "large"  # a picture of it takes seconds
    agree(path, PROMPTS[:1] if large else PROMPTS)
    runtime = open_runtime(path, "cpu")
    count = min(2 if large else MAX_BATCH, runtime.batch)
    rows = rows_of(runtime, [PROMPTS[k % 5] for k in range(count)], steps=2)
    alone = [images_of(runtime, [row])[0] for row in rows]
    together = images_of(runtime, rows)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_picture_is_the_flow_of_the_networks_decoded(weights):
    """Against the networks themselves: what is asked for, what is read, guidance, the solver, the decoder."""
    runtime, loaded = opened(TorchRuntime, weights), load_model(weights)
    networks, config, store = loaded.networks, loaded.config, loaded.references
    generator = networks.generator
    text, kinds = runtime.encode("a red ball", (1,)), torch.tensor([[1]])
    picked = store.choose(text.query, np.array([1]), 7)
    tokens, mask = map(torch.from_numpy, runtime.tokenizer.batch(["a red ball"], 64))
    with torch.inference_mode():
        asked = generator.condition(networks.text_encoder(tokens, mask), tokens, kinds)
        none = generator.null_condition(kinds)
        latents = torch.from_numpy(store.read(picked))[None]
        read = generator.read(
            latents, torch.from_numpy(store.attributes[picked].astype(np.int64))[None]
        )
        nothing = generator.no_references(1)

        def velocity(z, level):
            at = torch.full((1,), level)
            found = generator(z, at, asked, read)
            if level <= 0.2:
                return found
            away = generator(z, at, none, nothing)
            return away + 2.5 * (found - away)

        noise = torch.from_numpy(noise_for(7, config.latent_channels, config.cells))[None]
        wanted = networks.decoder(solve(velocity, noise, 6)).numpy()[0]
    (drawn,) = runtime.draw([Row(text, 7, steps=6, guidance=2.5)])
    assert drawn.references == tuple(store.sources[picked])
    assert np.abs(drawn.image - wanted).max() < 1e-4


@pytest.mark.parametrize("kind", [OnnxRuntime, TorchRuntime])
def test_a_row_is_the_same_alone_and_in_any_batch(weights, kind):
    runtime = opened(kind, weights)
    assert 1 <= runtime.batch <= MAX_BATCH
    negative, bold = runtime.encode("a blue bar"), runtime.encode("a ball", (0,))
    rows = rows_of(runtime, [PROMPTS[k % 5] for k in range(20)])
    rows[3] = dataclasses.replace(rows[3], guidance=1.0)
    rows[4] = dataclasses.replace(rows[4], steps=1)
    rows[5] = dataclasses.replace(rows[5], references=0)
    rows[6] = dataclasses.replace(rows[6], negative=negative, truncation=0.5)
    rows[7] = dataclasses.replace(rows[7], text=bold, guidance=5.0)
    alone = [runtime.draw([row])[0] for row in rows[:9]]
    for some in (slice(0, 1), slice(2, 7), slice(0, 20)):
        for one, drawn in zip(alone[some], runtime.draw(rows[some]), strict=False):
            assert np.array_equal(drawn.image, one.image)
            assert drawn.references == one.references


@pytest.mark.parametrize("kind", [OnnxRuntime, TorchRuntime])
def test_a_text_is_the_same_alone_and_among_others(weights, kind):
    asked = [(prompt, (place,)) for prompt in PROMPTS for place in (0, 2)]
    alone = [opened(kind, weights).encode(*one) for one in asked]
    together = opened(kind, weights).encode_many(asked * 5)
    for one, text in zip(asked, alone, strict=True):
        for name in ("text_features", "query", "condition"):
            assert np.array_equal(getattr(together[one], name), getattr(text, name))
        assert together[one].unknown_tokens == text.unknown_tokens
        assert (together[one].prompt, together[one].attributes) == one


def test_seeds_steps_attributes_and_references_each_change_the_picture(weights):
    runtime = opened(OnnxRuntime, weights)
    text = runtime.encode("a red ball")
    base = Row(text, 1)
    others = [
        dataclasses.replace(base, seed=2), dataclasses.replace(base, steps=9),
        dataclasses.replace(base, guidance=1.0), dataclasses.replace(base, references=0),
        dataclasses.replace(base, references=1), dataclasses.replace(base, truncation=0.5),
        dataclasses.replace(base, text=runtime.encode("a red ball", (1,))),
        dataclasses.replace(base, negative=runtime.encode("blue")),
    ]  # fmt: skip
    images = images_of(runtime, [base, *others])
    for image in images[1:]:
        assert np.abs(image - images[0]).max() > 1e-4


def test_other_seeds_read_other_references_and_the_same_seed_the_same(weights):
    runtime = opened(OnnxRuntime, weights)
    text = runtime.encode("a red ball")
    drawn = runtime.draw([Row(text, seed, steps=1) for seed in (*range(12), 3)])
    assert drawn[3].references == drawn[12].references
    assert len({frozenset(one.references) for one in drawn}) > 3
    for one in drawn:
        assert len(set(one.references)) == COUNT
        assert set(one.references) <= set(range(100, 116))  # the toys' numbers in their data


def test_between_two_prompts_the_ends_are_the_two(weights):
    runtime = opened(OnnxRuntime, weights)
    first, last = (Row(runtime.encode(prompt), 5, steps=2) for prompt in ("a red ball", "blue"))
    start, half, end = runtime.between(first, last, [0.0, 0.5, 1.0])
    assert np.array_equal(start, images_of(runtime, [first])[0])
    assert np.array_equal(end, images_of(runtime, [last])[0])
    assert min(np.abs(half - start).max(), np.abs(half - end).max()) > 1e-4
    none = [dataclasses.replace(row, references=0) for row in (first, last)]
    assert np.array_equal(runtime.between(*none, [0.0])[0], images_of(runtime, none[:1])[0])


def test_slerp_keeps_to_the_circle():
    a, b = np.array([2.0, 0.0], np.float32), np.array([0.0, 2.0], np.float32)
    assert slerp(a, b, 0.0) is a and slerp(a, b, 1.0) is b
    assert np.allclose(slerp(a, b, 0.5), [2**0.5, 2**0.5])
    assert np.allclose(np.linalg.norm(slerp(a, 3 * b, 0.25)), 3.0)  # lengths go in a line: 2 to 6
    assert np.allclose(slerp(a, np.zeros(2, np.float32), 0.5), [1.0, 0.0])


def test_a_start_of_its_own_and_how_far_to_go(weights):
    runtime = opened(OnnxRuntime, weights)
    text, shape = runtime.encode("a red ball"), (16, 8, 8)
    start = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    row = Row(text, 1, steps=2, start=start)
    kept, near, far, anew = images_of(
        runtime, [dataclasses.replace(row, strength=share) for share in (0.0, 0.2, 0.8, 1.0)]
    )
    assert np.abs(kept - runtime.decode(start[None])[0]).max() < 1e-5
    assert np.array_equal(anew, images_of(runtime, [Row(text, 1, steps=2)])[0])
    assert 0 < np.abs(near - kept).mean() < np.abs(far - kept).mean()


def test_the_second_start_reads_no_weights_and_imports_no_torch(weights):
    open_runtime(weights, "cpu")
    code = (
        "import sys, builtins, io\n"
        "from pathlib import Path\n"
        "from t2i_cli.runtime import open_runtime\n"
        f"runtime = open_runtime(Path({str(weights)!r}), 'auto')\n"
        "assert runtime.name == 'onnxruntime-cpu'\n"
        "print(sorted(m for m in sys.modules if m in ('torch', 'onnx', 'onnxscript', 'PIL', 'rich', 'typer')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_changed_weights_file_is_read_again(weights, tmp_path):
    path = tmp_path / "copy.safetensors"
    data = bytearray(weights.read_bytes())
    path.write_bytes(data)
    open_runtime(path, "cpu")
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"copy\.safetensors"):
        open_runtime(path, "cpu")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"references.keys": ("U8", (16, 32))}, "references.keys is not that of its config"),
        ({"references.latents": ("I8", (17, 16, 8, 8))}, "not as many everywhere"),
        ({"references.x": ("I8", (1,))}, "no tensor of references"),
    ],
)  # fmt: skip
def test_hostile_references_are_refused_where_the_graph_is_kept_too(
    weights, tmp_path, changes, why, monkeypatch
):
    opened(OnnxRuntime, weights)  # so that torch never sees the next file
    monkeypatch.setattr("t2i_cli.runtime.graphs.load_model", None)
    path = forged(tmp_path / "x.safetensors", weights, changes)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"x\.safetensors") as told:
            open_runtime(path, "cpu")
        assert why in str(told.value)


def test_a_style_that_no_attribute_has_is_refused_where_the_graph_is_kept_too(weights, tmp_path):
    opened(OnnxRuntime, weights)
    path, info = tmp_path / "x.safetensors", load_model(weights).info
    body = bytearray(weights.read_bytes()[info.header.data_start :])
    place = info.tensors["references.attributes"].start
    body[place : place + 2] = (300).to_bytes(2, "little")
    from t2i_cli.checkpoint.safetensors_file import data_digest, header_bytes

    kinds = {name: (item.dtype, item.shape) for name, item in info.tensors.items()}
    start, _ = header_bytes(kinds, info.metadata, data_digest([bytes(body)]))
    path.write_bytes(start + body)
    with pytest.raises(WeightsError, match="unknown style"):
        open_runtime(path, "cpu")


def test_the_graph_of_a_config_is_that_of_all_that_draw_alike(weights):
    config = load_model(weights).config
    renamed = dataclasses.replace(config.attributes[0], name="mood", values=("glad", "sad"))
    for same in ({"opaque": True}, {"size": "tiny"}, {"attributes": (renamed,)}):
        assert _config_key(dataclasses.replace(config, **same)) == _config_key(config)
    more = dataclasses.replace(config.attributes[0], values=("a", "b", "c"))
    for other in ({"attributes": ()}, {"attributes": (more,)}, {"head_dim": 8}):
        assert _config_key(dataclasses.replace(config, **other)) != _config_key(config)


def blue(runtime):
    """One picture of it."""
    return runtime.draw([Row(runtime.encode("blue"), 1, steps=2)])[0]


def test_a_damaged_cache_is_made_again(weights):
    before = blue(opened(OnnxRuntime, weights))
    ready = cache_folder() / "ready"
    for name, damage in (
        ("generator.onnx", b"no graph"),
        ("about.json", b"{"),
        ("tokenizer.model", b""),
        ("words.txt", b"\xff"),
        ("references.latents.npy", b"\x93NUMPY"),
    ):
        for folder in ready.iterdir():
            (folder / name).write_bytes(damage)
        again = blue(opened(OnnxRuntime, weights))
        assert np.array_equal(again.image, before.image)
        assert again.references == before.references


def test_without_a_cache_it_still_draws(weights, monkeypatch):
    runtime = opened(OnnxRuntime, weights)
    wanted = blue(runtime)
    bundle = bundle_for(runtime.config)
    monkeypatch.setattr("t2i_cli.runtime.graphs.bundle_for", lambda *_, **__: bundle)
    monkeypatch.setenv("T2I_CACHE", "/dev/null/no")
    assert np.array_equal(blue(opened(OnnxRuntime, weights)).image, wanted.image)


def tree(folder):
    return sorted(path.name for path in folder.rglob("*"))


def cold(arguments, cwd, **env):
    """A command in a process of its own; (done, what it left in its temporary folder)."""
    temporary = cwd / "tmp"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "t2i_cli", *map(str, arguments)], capture_output=True, text=True,
        cwd=cwd, env={**os.environ, "TMPDIR": str(temporary), **env}, timeout=120,
    )  # fmt: skip
    return done, tree(temporary)


def test_without_a_cache_a_command_leaves_nothing_and_says_once_what_to_set(weights, tmp_path):
    open_runtime(
        weights, "cpu"
    )  # the graph of its config is kept; what is ready to be mapped is not
    cache = tmp_path / "cache"
    (cache / "graphs").mkdir(parents=True)
    for path in (cache_folder() / "graphs").iterdir():
        shutil.copy(path, cache / "graphs")
    (cache / "ready").write_text("")  # so that root cannot write there either
    prompts = ["a red ball", "a blue bar", "a ball"]
    line = ["sample", *prompts, "-m", weights, "-o", "{slug}.png"]
    for _ in range(2):
        done, left = cold([*line, "-f"], tmp_path, T2I_CACHE=str(cache))
        assert done.returncode == 0, done.stderr
        assert left == []
        assert len(done.stderr.splitlines()) == 1
        assert "set T2I_CACHE to a folder that can be written" in done.stderr
        assert "torch" not in done.stderr
    assert tree(cache) == sorted(["graphs", "ready", *tree(cache / "graphs")])
    runtime = opened(OnnxRuntime, weights)
    wanted = runtime.draw([Row(runtime.encode("a red ball"), 0)])[0].image
    found = decode((tmp_path / "a-red-ball.png").read_bytes(), name="x")
    assert np.array_equal(found, to_pixels(wanted[None])[0])


def test_without_a_cache_or_a_graph_torch_draws(tmp_path):
    config = dataclasses.replace(toy_config(vocab_size=toy_tokenizer().vocab_size), head_dim=8)
    own = save_toy(tmp_path / "own.safetensors", config=config)  # no graph of it is kept anywhere
    start = time.perf_counter()
    done, left = cold(
        ["sample", "a red ball", "-m", own, "-o", "x.png"], tmp_path, T2I_CACHE="/dev/null/no"
    )
    assert done.returncode == 0, done.stderr
    assert left == []
    assert len(done.stderr.splitlines()) == 1
    assert "sampling with torch" in done.stderr
    assert "set T2I_CACHE to a folder that can be written" in done.stderr
    assert time.perf_counter() - start < 60  # the graph alone takes 15 s of an idle machine


def test_what_a_killed_command_left_is_removed_by_the_next(weights, tmp_path):
    from tests.kills import kill_sampling

    assert kill_sampling(weights, tmp_path, 8, seed=0) == (8, [])


def test_devices_that_are_not_there(weights):
    with pytest.raises(UsageError, match="no such device"):
        open_runtime(weights, "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            open_runtime(weights, "cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(UsageError, match="no Metal"):
            open_runtime(weights, "mps")


def test_the_cache_keeps_few_models(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("t2i_cli.runtime.graphs._KEPT", 2)
    for k in range(4):
        path = tmp_path / f"{k}.safetensors"
        path.write_bytes(weights.read_bytes())
        open_runtime(path, "cpu")
    assert len(list((cache_folder() / "ready").iterdir())) <= 2


def test_a_model_that_training_left_early_says_so(tmp_path):
    said: list[str] = []
    path = save_toy(tmp_path / "early.safetensors", stage="autoencoder")
    load(path, "cpu", announce=said.append)
    (line,) = [line for line in said if "training stopped in the autoencoder stage" in line]
    assert str(path) in line and "--resume" in line
    said.clear()
    load(save_toy(tmp_path / "done.safetensors", stage="flow"), "cpu", announce=said.append)
    assert not any("stopped" in line for line in said)
