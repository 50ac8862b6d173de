"""A model's networks -> ONNX graphs: text_encoder, generator, image_encoder, one file each.

Leaves two forms. `export_onnx` writes files for others, weights inside. `build_graphs` makes the skeletons
that `runtime` fills with the weights of any model of the same config; they hold the networks' structure and no weight.

| graph | inputs | outputs |
|---|---|---|
| text_encoder | tokens int64 (b, t), mask bool (b, t) | text_embeds (b, t, d), text_features (b, d), style (b, s) |
| generator | noise (b, c, h, w), text_embeds (b, t, d), mask bool (b, t), style (b, s) | images in [-1, 1] |
| image_encoder | images (b, c, h, w) | image_features (b, d) |

b and t are free. Guidance is arithmetic between the two first: style = null + guidance * (style - null).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2i_cli import libraries, models
from t2i_cli.checkpoint import load_model, write_atomic
from t2i_cli.config import ModelConfig
from t2i_cli.errors import OutputError, T2IError

__all__ = ["OPSET", "build_graphs", "export_onnx"]

OPSET = 20  # of ONNX; read by ONNX Runtime 1.17 and later
GRAPHS = ("text_encoder", "generator", "image_encoder")


class _Text(nn.Module):
    """The text encoder, and the generator's map from what it says to a style."""

    def __init__(self, networks: models.Networks) -> None:
        super().__init__()
        self.text_encoder = networks.text_encoder
        self.generator = networks.generator

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens int64 (b, t), mask bool (b, t) -> text_embeds, text_features, style."""
        text = self.text_encoder(tokens, mask)
        return text.text_embeds, text.text_features, self.generator.style(text.text_features)


class _Generator(nn.Module):
    """G at s = 1: one step from pure noise, as `models.one_step` takes it."""

    def __init__(self, networks: models.Networks) -> None:
        super().__init__()
        self.generator = networks.generator

    def forward(self, noise: Tensor, text_embeds: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """Noise (b, c, h, w) and a text -> images (b, c, h, w)."""
        level = torch.ones_like(noise[:, 0, 0, 0])
        return self.generator(noise, level, text_embeds, mask, style)


class _Images(nn.Module):
    def __init__(self, networks: models.Networks) -> None:
        super().__init__()
        self.image_encoder = networks.image_encoder

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, c, h, w) -> image_features (b, d)."""
        return self.image_encoder(images)


def build_graphs(config: ModelConfig) -> bytes:
    """The skeletons of a config: a zip of NAME.onnx and NAME.json, the names of the weights that were left out.

    The names are those of a weights file. Takes some ten seconds.

    Raises:
        T2IError: the exporter is not installed or fails.
    """
    networks = models.build(config).eval().requires_grad_(False)
    known = {key: tuple(value.shape) for key, value in networks.state_dict().items()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bundle:
        for name, proto in _protos(networks, config):
            left_out: list[str] = []
            for tensor in proto.graph.initializer:
                if known.get(tensor.name) == tuple(tensor.dims):
                    tensor.ClearField("raw_data")
                    tensor.ClearField("float_data")
                    tensor.data_location = 1  # TensorProto.EXTERNAL
                    entry = tensor.external_data.add()
                    entry.key, entry.value = "location", "weights"
                    left_out.append(tensor.name)
            for node in proto.graph.node:
                node.ClearField("doc_string")
                node.ClearField("metadata_props")
            for value in proto.graph.value_info:
                value.ClearField("metadata_props")
            for file, content in (
                (f"{name}.onnx", proto.SerializeToString()),
                (f"{name}.json", json.dumps(left_out).encode()),
            ):
                bundle.writestr(zipfile.ZipInfo(file), content, zipfile.ZIP_DEFLATED, 9)
    return packed.getvalue()


def export_onnx(model: Path | str, out: Path | str, *, overwrite: bool = False) -> list[Path]:
    """Write a model's graphs, its tokenizer, its list of words and its config into a folder, for other programs.

    Args:
        model: a weights file.
        out: the folder; it appears whole or not at all.
        overwrite: replace what is there.

    Returns:
        The files written.

    Raises:
        WeightsError: no such model, or a broken one.
        OutputError: the folder is there, or cannot be written.
        T2IError: the exporter is not installed or fails.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: is there already", "use -f, or name another folder with -o")
    loaded = load_model(model)
    about = {
        "config": loaded.config.to_dict(),
        "model": loaded.info.title,
        "model_hash": loaded.info.hash,
        "license": loaded.info.license,
        "opset": OPSET,
        "guidance": "style = null_style + guidance * (style - null_style)",
        "pixels": "RGBA is premultiplied around grey: colour / alpha, then (x + 1) / 2",
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".t2i-", suffix=".tmp", dir=out.parent))
        try:
            for name, proto in _protos(loaded.networks, loaded.config):
                (temporary / f"{name}.onnx").write_bytes(proto.SerializeToString())
            (temporary / "tokenizer.model").write_bytes(loaded.tokenizer)
            (temporary / "words.txt").write_bytes(loaded.words)
            (temporary / "config.json").write_text(
                json.dumps(about, indent=2) + "\n", encoding="utf-8"
            )
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            if overwrite and out.is_dir():
                for file in temporary.iterdir():
                    write_atomic(out / file.name, file.read_bytes())
                shutil.rmtree(temporary)
            else:
                temporary.rename(out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    texts = [out / name for name in ("tokenizer.model", "words.txt", "config.json")]
    return [*sorted(out.glob("*.onnx")), *texts]


def _protos(networks: models.Networks, config: ModelConfig) -> Iterator[tuple[str, Any]]:
    """Name and ONNX model of each graph, batch and tokens free."""
    side, dim = config.resolution, config.text.dim
    batch = torch.export.Dim("b", min=1, max=4096)
    words = torch.export.Dim("t", min=2, max=config.text.context_length)
    tokens = torch.full((2, min(12, config.text.context_length)), 3)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    noise = torch.zeros(2, config.image_channels, side, side)
    embeds = torch.zeros(*tokens.shape, dim)
    style = networks.generator.style(torch.zeros(2, dim))
    text_axes = {0: batch, 1: words}
    first = {0: batch}
    jobs = {
        "text_encoder": (_Text(networks), (tokens, mask), (text_axes, text_axes), ["tokens", "mask"],
                         ["text_embeds", "text_features", "style"]),
        "generator": (_Generator(networks), (noise, embeds, mask, style), (first, text_axes, text_axes, first),
                      ["noise", "text_embeds", "mask", "style"], ["images"]),
        "image_encoder": (_Images(networks), (noise,), (first,), ["images"], ["image_features"]),
    }  # fmt: skip
    for name, (module, example, axes, inputs, outputs) in jobs.items():
        libraries.silence()
        with _quiet(), libraries.Compiler():
            try:
                program = torch.onnx.export(
                    module.eval(),
                    example,
                    dynamo=True,
                    input_names=inputs,
                    output_names=outputs,
                    dynamic_shapes=axes,
                    opset_version=OPSET,
                    optimize=False,
                    verbose=False,
                )
                assert program is not None
                proto = program.model_proto
            except ImportError as error:
                raise T2IError(
                    f"the exporter needs the package {error.name}", "pip install onnx onnxscript"
                ) from error
            except Exception as error:
                reason = (
                    str(error).strip().splitlines()[0]
                    if str(error).strip()
                    else type(error).__name__
                )
                raise T2IError(f"the {name} cannot be exported to ONNX: {reason}") from error
        yield name, proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on every channel there is."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
