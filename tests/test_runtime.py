import dataclasses
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from t2i_cli import models
from t2i_cli.config import PRESETS, model_config
from t2i_cli.errors import UsageError, WeightsError
from t2i_cli.folders import cache_folder
from t2i_cli.graphs import bundle_for
from t2i_cli.images import decode
from t2i_cli.noise import noise_for
from t2i_cli.pixels import to_pixels
from t2i_cli.runtime import MAX_BATCH, OnnxRuntime, TorchRuntime, open_runtime
from t2i_cli.sample import load
from tests.toy_weights import save_toy
from tests.toys import toy_config, toy_tokenizer

PROMPTS = ["a red ball", "", "blue", "a yellow cross, a green bar and a blue square " * 3, "ein 🦊"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_toy(tmp_path_factory.mktemp("weights") / "toy.safetensors")


def drawn(runtime, prompts, seeds):
    config = runtime.config
    texts = [runtime.encode(prompt) for prompt in prompts]
    noise = np.stack([noise_for(seed, config.image_channels, config.resolution) for seed in seeds])
    return runtime.draw(noise, texts, np.stack([text.style for text in texts]))


def agree(path, prompts=PROMPTS):
    onnx, reference = open_runtime(path, "cpu"), TorchRuntime(path, "cpu")
    assert isinstance(onnx, OnnxRuntime)
    for seed, prompt in enumerate(prompts):
        a, b = drawn(onnx, [prompt], [seed]), drawn(reference, [prompt], [seed])
        assert np.abs(a - b).max() < 1 / 255
        assert np.abs(to_pixels(a)[..., -1].astype(int) - to_pixels(b)[..., -1]).max() <= 1
        visible = to_pixels(b)[..., -1:] == 255 if a.shape[1] == 4 else np.ones((1, 1, 1, 1), bool)
        assert (np.abs(to_pixels(a).astype(int) - to_pixels(b)) * visible).max() <= 1
        assert np.abs(onnx.image_features(a) - reference.image_features(b)).max() < 1e-3
        text, other = onnx.encode(prompt), reference.encode(prompt)
        assert np.abs(text.text_features - other.text_features).max() < 1e-4
        assert (text.unknown_tokens, text.cut) == (other.unknown_tokens, other.cut)


def test_onnx_runtime_draws_what_torch_draws(weights):
    agree(weights)


def test_pictures_without_alpha_too(tmp_path):
    agree(save_toy(tmp_path / "rgb.safetensors", channels=3))


@pytest.mark.slow
@pytest.mark.parametrize("size", list(PRESETS))
def test_every_preset_draws_what_torch_draws(size, tmp_path):
    config = model_config(size, 64, vocab_size=toy_tokenizer().vocab_size)
    path = save_toy(tmp_path / "x.safetensors", config=config)
    large = size == "large"  # a picture of it takes seconds
    agree(path, PROMPTS[:1] if large else PROMPTS)
    runtime = open_runtime(path, "cpu")
    count = min(2 if large else MAX_BATCH, runtime.batch)
    alone = [drawn(runtime, [PROMPTS[k % 5]], [k])[0] for k in range(count)]
    together = drawn(runtime, [PROMPTS[k % 5] for k in range(count)], range(count))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_torch_runtime_is_one_step_of_the_generator(weights):
    runtime = TorchRuntime(weights, "cpu")
    networks, config = runtime.loaded.networks, runtime.config
    noise = noise_for(3, config.image_channels, config.resolution)
    tokens, mask = runtime.tokenizer.batch(["a red ball", ""], config.text.context_length)
    with torch.inference_mode():
        both = networks.text_encoder(torch.from_numpy(tokens), torch.from_numpy(mask))
        text, null = both[slice(0, 1)], both[slice(1, 2)]
        wanted = models.one_step(networks.generator, torch.from_numpy(noise)[None], text, null, 2.0)
    a, b = runtime.encode("a red ball"), runtime.encode("")
    style = b.style + np.float32(2.0) * (a.style - b.style)
    assert np.abs(runtime.draw(noise[None], [a], style[None]) - wanted.numpy()).max() < 1e-5


@pytest.mark.parametrize("kind", [OnnxRuntime, TorchRuntime])
def test_a_row_is_the_same_alone_and_in_any_batch(weights, kind):
    runtime = open_runtime(weights, "cpu") if kind is OnnxRuntime else TorchRuntime(weights, "cpu")
    assert 1 <= runtime.batch <= MAX_BATCH
    prompts = [PROMPTS[k % 5] for k in range(runtime.batch)]
    alone = [drawn(runtime, [prompt], [k])[0] for k, prompt in enumerate(prompts)]
    for first, last in ((0, 1), (0, 3), (2, 7), (0, runtime.batch)):
        rows = range(first, min(last, runtime.batch))
        if not rows:
            continue
        together = drawn(runtime, [prompts[k] for k in rows], rows)
        for k, image in zip(rows, together, strict=True):
            assert np.array_equal(image, alone[k])


@pytest.mark.parametrize("kind", [OnnxRuntime, TorchRuntime])
def test_a_text_is_the_same_alone_and_among_others(weights, kind):
    def fresh():
        return open_runtime(weights, "cpu") if kind is OnnxRuntime else TorchRuntime(weights, "cpu")

    alone = [fresh().encode(prompt) for prompt in PROMPTS]
    together = fresh().encode_many(PROMPTS * 5)
    for prompt, text in zip(PROMPTS, alone, strict=True):
        assert np.array_equal(together[prompt].text_embeds, text.text_embeds)
        assert np.array_equal(together[prompt].style, text.style)
        assert together[prompt].unknown_tokens == text.unknown_tokens


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


def test_a_damaged_cache_is_made_again(weights):
    before = drawn(open_runtime(weights, "cpu"), ["blue"], [1])
    ready = cache_folder() / "ready"
    for name, damage in (
        ("generator.onnx", b"no graph"),
        ("about.json", b"{"),
        ("tokenizer.model", b""),
        ("words.txt", b"\xff"),
    ):
        for folder in ready.iterdir():
            (folder / name).write_bytes(damage)
        assert np.array_equal(drawn(open_runtime(weights, "cpu"), ["blue"], [1]), before)


def test_without_a_cache_it_still_draws(weights, monkeypatch):
    runtime = open_runtime(weights, "cpu")
    wanted = drawn(runtime, ["blue"], [1])
    bundle = bundle_for(runtime.config)
    monkeypatch.setattr("t2i_cli.graphs.bundle_for", lambda *_, **__: bundle)
    monkeypatch.setenv("T2I_CACHE", "/dev/null/no")
    assert np.array_equal(drawn(open_runtime(weights, "cpu"), ["blue"], [1]), wanted)


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
    wanted = drawn(open_runtime(weights, "cpu"), ["a red ball"], [0])
    found = decode((tmp_path / "a-red-ball.png").read_bytes(), name="x")
    assert np.array_equal(found, to_pixels(wanted)[0])


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
    monkeypatch.setattr("t2i_cli.graphs._KEPT", 2)
    for k in range(4):
        path = tmp_path / f"{k}.safetensors"
        path.write_bytes(weights.read_bytes())
        open_runtime(path, "cpu")
    assert len(list((cache_folder() / "ready").iterdir())) <= 2


def test_a_model_that_training_left_early_says_so(tmp_path):
    said: list[str] = []
    load(save_toy(tmp_path / "early.safetensors", stage="flow"), "cpu", announce=said.append)
    assert any("one step gives a blur" in line for line in said)
    said.clear()
    load(save_toy(tmp_path / "done.safetensors", stage="adversarial"), "cpu", announce=said.append)
    assert not any("blur" in line for line in said)
