import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from t2i_cli.cli import _export_folder
from t2i_cli.errors import OutputError
from t2i_cli.export import OPSET, export_onnx
from t2i_cli.noise import noise_batch
from t2i_cli.runtime import TorchRuntime
from t2i_cli.tokenizer import Tokenizer
from tests.toy_weights import save_toy


def test_other_programs_can_draw_with_the_files(tmp_path):
    weights = save_toy(tmp_path / "toy.safetensors")
    files = export_onnx(weights, tmp_path / "out")
    assert {path.name for path in files} == {
        "text_encoder.onnx", "generator.onnx", "image_encoder.onnx", "tokenizer.model", "words.txt", "config.json",
    }  # fmt: skip
    about = json.loads((tmp_path / "out/config.json").read_text())
    assert about["opset"] == OPSET
    text, generator, images = (
        onnxruntime.InferenceSession(
            tmp_path / f"out/{name}.onnx", providers=["CPUExecutionProvider"]
        )
        for name in ("text_encoder", "generator", "image_encoder")
    )
    tokens, mask = Tokenizer.load(tmp_path / "out/tokenizer.model").batch(
        ["a red ball", "blue", ""], 9
    )
    embeds, features, style = text.run(None, {"tokens": tokens, "mask": mask})
    noise = noise_batch([1, 2, 3], 4, 32)
    drawn = generator.run(
        None, {"noise": noise, "text_embeds": embeds, "mask": mask, "style": style}
    )[0]
    seen = images.run(None, {"images": drawn})[0]
    reference = TorchRuntime(weights, "cpu")
    for row, prompt in enumerate(["a red ball", "blue", ""]):
        said = reference.encode(prompt)
        wanted = reference.draw(noise[row : row + 1], [said], said.style[None])
        assert np.abs(drawn[row] - wanted[0]).max() < 1 / 255
        assert np.abs(features[row] - said.text_features).max() < 1e-4
        assert np.abs(seen[row] - reference.image_features(wanted)[0]).max() < 1e-3
    with pytest.raises(OutputError, match="there already"):
        export_onnx(weights, tmp_path / "out")


def test_exports_without_a_place_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _export_folder(tmp_path / "toy.safetensors", force=False) == Path("toy-onnx")
    (tmp_path / "toy-onnx").mkdir()
    assert _export_folder(tmp_path / "toy.safetensors", force=False) == Path("toy-onnx-2")
    (tmp_path / "toy-onnx-2").mkdir()
    assert _export_folder(tmp_path / "toy.safetensors", force=False) == Path("toy-onnx-3")
    assert _export_folder(tmp_path / "toy.safetensors", force=True) == Path("toy-onnx")
    runs = tmp_path / "runs" / "pets"
    assert _export_folder(runs / "model.safetensors", force=False) == Path("pets-onnx")
    assert _export_folder(runs / "best.safetensors", force=False) == Path("pets-best-onnx")
