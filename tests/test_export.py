"""What other programs get: ONNX files that draw what t2i draws, and weights without the training pictures."""

import json

import numpy as np
import onnxruntime
import pytest

from t2i_cli.checkpoint import load_model, read_info
from t2i_cli.cli import run
from t2i_cli.errors import OutputError
from t2i_cli.export import OPSET, export_onnx, export_without_references
from t2i_cli.noise import noise_for
from t2i_cli.runtime import Row
from t2i_cli.runtime.torch_runtime import TorchRuntime
from t2i_cli.solver import solve
from t2i_cli.tokenizer import Tokenizer
from tests.toy_weights import save_toy

GRAPHS = ("text", "null", "references", "generator", "decoder", "encoder", "image_encoder")


def sessions(folder):
    return {
        name: onnxruntime.InferenceSession(
            folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
        )
        for name in GRAPHS
    }


def test_other_programs_can_draw_with_the_files(tmp_path):
    """The sampler as config.json says it, in ten lines, against the runtime."""
    weights = save_toy(tmp_path / "toy.safetensors")
    files = export_onnx(weights, tmp_path / "out")
    assert {path.name for path in files} == {
        *(f"{name}.onnx" for name in GRAPHS), "tokenizer.model", "words.txt", "config.json",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in files}
    about = json.loads((tmp_path / "out/config.json").read_text())
    assert about["opset"] == OPSET
    assert about["model_hash"] == read_info(weights).hash
    graphs = sessions(tmp_path / "out")
    tokens, mask = Tokenizer.load(tmp_path / "out/tokenizer.model").batch(["a red ball"], 9)
    kinds = np.array([[1]], np.int64)
    told = {"tokens": tokens, "mask": mask, "attributes": kinds}
    features, query, condition = graphs["text"].run(None, told)
    (null,) = graphs["null"].run(None, {"attributes": kinds})
    store = load_model(weights).references
    picked = store.choose(query[0], kinds[0], 5)
    seen = {
        "latents": store.read(picked)[None], "attributes": store.attributes[picked][None].astype(np.int64),
    }  # fmt: skip
    read = dict(zip(("fine", "coarse", "mean"), graphs["references"].run(None, seen), strict=True))
    nothing = {
        "fine": read["fine"][:, :1], "coarse": read["coarse"][:, :1], "mean": 0 * read["mean"],
    }  # fmt: skip

    def velocity(z, level):
        feed = {"noisy": z.astype(np.float32), "level": np.array([level], np.float32)}
        found = graphs["generator"].run(None, {**feed, "condition": condition, **read})[0]
        if level <= 0.2:
            return found
        away = graphs["generator"].run(None, {**feed, "condition": null, **nothing})[0]
        return away + 2.0 * (found - away)

    latents = solve(velocity, noise_for(5, 16, 8)[None], 4).astype(np.float32)
    (drawn,) = graphs["decoder"].run(None, {"latents": latents})
    reference = TorchRuntime.open(weights, "cpu")
    said = reference.encode("a red ball", (1,))
    (wanted,) = reference.draw([Row(said, 5, steps=4, guidance=2.0)])
    assert wanted.references == tuple(store.sources[picked])
    assert np.abs(drawn[0] - wanted.image).max() < 2 / 255
    assert np.abs(features[0] - said.text_features).max() < 1e-4
    images = wanted.image[None].clip(-1, 1)
    for name, network in (
        ("encoder", reference.latents),
        ("image_encoder", reference.image_features),
    ):
        found = graphs[name].run(None, {"images": images})[0]
        assert np.abs(found - network(images)).max() < 1e-3
    with pytest.raises(OutputError, match="there already"):
        export_onnx(weights, tmp_path / "out")


def test_weights_without_the_training_pictures(tmp_path, capsys):
    weights = save_toy(tmp_path / "toy.safetensors", stage="flow")
    bare = export_without_references(weights, tmp_path / "bare.safetensors")
    before, after = load_model(weights), load_model(bare)
    assert (len(before.references), len(after.references)) == (16, 0)
    assert bare.stat().st_size < weights.stat().st_size
    assert before.config == after.config
    assert (before.tokenizer, before.words) == (after.tokenizer, after.words)
    wanted = before.networks.state_dict()
    assert all(value.equal(wanted[name]) for name, value in after.networks.state_dict().items())
    changing = ("t2i.references", "modelspec.date")
    kept = {
        key: value
        for key, value in before.info.metadata.items()
        if key not in changing and "sha256" not in key
    }
    assert kept.items() <= after.info.metadata.items()
    assert after.info.metadata["t2i.references"] == "0"
    with pytest.raises(OutputError, match="there already"):
        export_without_references(weights, bare)
    runtime = TorchRuntime.open(bare, "cpu")
    (drawn,) = runtime.draw([Row(runtime.encode("a red ball"), 1, steps=1)])
    assert drawn.references == ()
    out = str(tmp_path / "again.safetensors")
    assert run(["export", str(weights), "--no-references", "-o", out]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert read_info(out).hash == after.info.hash
    assert run(["export", str(weights), "--no-references", "-o", out]) == 1
    assert "-f" in capsys.readouterr().err
