import numpy as np
import pytest

from t2i_cli.checkpoint import read_info, shipped_models
from t2i_cli.graphs import bundle_for
from t2i_cli.runtime import OnnxRuntime, TorchRuntime, open_runtime
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
    runtime, reference = open_runtime(path, "cpu"), TorchRuntime(path, "cpu")
    assert isinstance(runtime, OnnxRuntime)
    for seed, prompt in enumerate(["a red cat", "a blue house", ""]):
        text = runtime.encode(prompt)
        noise = np.random.RandomState(seed).standard_normal(
            (1, runtime.config.image_channels, *[runtime.config.resolution] * 2)
        )
        noise = noise.astype(np.float32)
        drawn = runtime.draw(noise, [text], text.style[None])
        said = reference.encode(prompt)
        wanted = reference.draw(noise, [said], said.style[None])
        assert np.abs(drawn - wanted).max() < 1 / 255
    one = Model(runtime, path).pictures([Wish("a red cat", 3)])[0].pixels
    many = (
        Model(runtime, path)
        .pictures([Wish("a dog", 1), Wish("a red cat", 3), Wish("a fish", 2)])[1]
        .pixels
    )
    assert np.array_equal(one, many)
    assert one.std() > 5
