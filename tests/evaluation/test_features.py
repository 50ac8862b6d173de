"""Encoders by name: the shipped one, transformers models from a folder, ONNX files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from t2i_cli.errors import UsageError, WeightsError
from t2i_cli.evaluation.features import load_encoder, own_weights
from t2i_cli.models.eval_encoder import EvalEncoder, hash_words, pictures_to_inputs

RECIPE = {
    "do_center_crop": True, "crop_size": {"height": 24, "width": 24}, "size": {"shortest_edge": 28}, "resample": 3,
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
}  # fmt: skip


def pictures(n: int = 5, side: int = 32, channels: int = 4) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (n, side, side, channels)).astype(np.uint8)


def test_own_is_shipped_and_takes_any_size_with_and_without_alpha() -> None:
    encoder = load_encoder("own")
    assert encoder.name == "own"
    assert "64 px" in encoder.note
    for side, channels in ((32, 4), (64, 3), (100, 4)):
        features = encoder.features(pictures(3, side, channels))
        assert features.shape == (3, EvalEncoder.feature_dim)
        assert (features >= 0).all()
    told: list[tuple[int, int]] = []
    encoder.features(pictures(130), lambda done, total: told.append((done, total)))
    assert told == [(128, 130), (130, 130)]


def test_a_picture_has_the_same_features_in_any_batch() -> None:
    encoder = load_encoder("own")
    many = encoder.features(pictures(7, 64))
    alone = torch.cat([encoder.features(pictures(7, 64)[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(many, alone, rtol=1e-4, atol=1e-5)


def test_what_lies_under_transparency_is_not_seen() -> None:
    pixels = pictures(2, 64)
    pixels[..., 3] = 0
    pixels[1, ..., :3] = 7
    inputs = pictures_to_inputs(torch.from_numpy(pixels))
    assert torch.equal(inputs[0], inputs[1])
    assert inputs[0, :3].eq(1).all()
    assert inputs[0, 3].eq(-1).all()


def test_words_are_hashed_in_order_and_case_does_not_count() -> None:
    rows = hash_words(["a red cat", "A red, CAT", "cat a red", ""])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0].sort().values, rows[2].sort().values)  # other pairs
    assert (rows[3] == 0).all()
    assert hash_words(["word " * 500]).shape == rows[:1].shape


def test_broken_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "a.safetensors"
    broken.write_bytes(own_weights().read_bytes()[:-1])
    with pytest.raises(WeightsError):
        load_encoder(str(broken))
    bad = tmp_path / "b.onnx"
    bad.write_bytes(b"not a graph")
    with pytest.raises(WeightsError, match=r"b\.onnx: not a usable ONNX file"):
        load_encoder(str(bad))
    with pytest.raises(UsageError, match="no such encoder"):
        load_encoder(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="no such encoder"):
        load_encoder("inception")


def test_an_onnx_file_sees_pictures_on_white_between_minus_one_and_one(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Identity", ["mean"], ["y"]),
        ],
        "mean",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", kind, ["n", 3])],
    )
    opset = helper.make_opsetid("", 13)
    path = tmp_path / "mean.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    encoder = load_encoder(str(path))
    pixels = np.zeros((2, 16, 16, 4), np.uint8)
    pixels[1] = (255, 0, 0, 255)
    features = encoder.features(pixels)
    torch.testing.assert_close(features, torch.tensor([[1.0, 1, 1], [1, -1, -1]]))
    assert "16 px" in encoder.note
    assert encoder.text_features is None


@pytest.mark.filterwarnings("ignore")
def test_a_vision_model_of_transformers_gets_its_published_preparation(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=24, patch_size=8
    )
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    encoder = load_encoder(str(tmp_path))
    assert encoder.text_features is None
    assert "Dinov2Model" in encoder.note
    pixels = pictures(3, 28, 3)
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2)[..., 2:26, 2:26] / 255
    mean, std = (torch.tensor(RECIPE[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        expected = model(pixel_values=(values - mean) / std).pooler_output
    torch.testing.assert_close(encoder.features(pixels), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_reads_measures_alignment_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 8, "max_position_embeddings": 8, "eos_token_id": 7},
        vision_config={**small, "image_size": 24, "patch_size": 8},
        projection_dim=12,
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    words = {
        word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "red", "cat", "dog", "x", "[E]"])
    }
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[E]",
        model_max_length=8,
    ).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    encoder = load_encoder(str(tmp_path))
    assert encoder.text_features is not None
    assert encoder.to_shared is not None
    features = encoder.features(pictures(3))
    texts = encoder.text_features(["a red cat", "a dog"])
    assert encoder.to_shared(features).shape == (3, 12)
    assert texts.shape == (2, 12)
    assert not texts.requires_grad


@pytest.mark.filterwarnings("ignore")
def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_encoder(str(tmp_path))
