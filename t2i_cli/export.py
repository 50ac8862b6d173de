"""A model's networks -> ONNX graphs, one file each.

Leaves two forms. `export_onnx` writes files for others, weights inside. `build_graphs` makes the skeletons
that `runtime` fills with the weights of any model of the same config; they hold the networks' structure and no weight.

| graph | inputs | outputs |
|---|---|---|
| text | tokens int64, mask bool (b, t), attributes int64 (b, a) | text_features, query (b, d), condition (b, e) |
| null | attributes int64 (b, a) | condition (b, e), of no text |
| references | latents (b, k, c, n, n), attributes int64 (b, k, a) | fine, coarse, mean of `models.ReadReferences` |
| generator | noisy (b, c, n, n), level (b,), condition, fine, coarse, mean | velocity (b, c, n, n) |
| decoder | latents (b, c, n, n) | images (b, 4, r, r) in [-1, 1] |
| encoder | images (b, 4, r, r) | latents (b, c, n, n) |
| image_encoder | images (b, 4, r, r) | image_features (b, d) |

b, t and k are free. The sampler's loop (`t2i_cli.solver`) runs outside of the graphs.
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
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_cli import libraries, models
from t2i_cli.checkpoint import load_model, save_model, write_atomic
from t2i_cli.config import ModelConfig
from t2i_cli.errors import OutputError, T2IError

__all__ = ["OPSET", "build_graphs", "export_onnx", "export_without_references"]

OPSET = 20  # of ONNX; read by ONNX Runtime 1.17 and later


class _Text(nn.Module):
    """The text encoder, the query for references, and what the generator is asked for."""

    def __init__(self, networks: models.Networks) -> None:
        super().__init__()
        self.text_encoder, self.generator = networks.text_encoder, networks.generator

    def forward(
        self, tokens: Tensor, mask: Tensor, attributes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens int64, mask bool (b, t), attributes int64 (b, a) -> text_features, query, condition."""
        text = self.text_encoder(tokens, mask)
        query = F.normalize(self.generator.whitened(text.text_features), dim=1)
        return text.text_features, query, self.generator.condition(text, tokens, attributes)


class _Null(nn.Module):
    """What is asked for without a text."""

    def __init__(self, networks: models.Networks) -> None:
        super().__init__()
        self.generator = networks.generator

    def forward(self, attributes: Tensor) -> Tensor:
        """Attributes int64 (b, a) -> condition (b, e)."""
        return self.generator.null_condition(attributes)


class _References(nn.Module):
    """What the generator reads off references."""

    def __init__(self, networks: models.Networks) -> None:
        super().__init__()
        self.generator = networks.generator

    def forward(self, latents: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (b, k, c, n, n), attributes int64 (b, k, a) -> fine, coarse, mean of `models.ReadReferences`."""
        read = self.generator.read(latents, attributes)
        return read.fine, read.coarse, read.mean


class _Generator(nn.Module):
    """The velocity at a noise level: the sampler's loop runs outside."""

    def __init__(self, networks: models.Networks) -> None:
        super().__init__()
        self.generator = networks.generator

    def forward(
        self,
        noisy: Tensor,
        level: Tensor,
        condition: Tensor,
        fine: Tensor,
        coarse: Tensor,
        mean: Tensor,
    ) -> Tensor:
        """Latents (b, c, n, n) at levels (b,), and what they are to become -> velocity (b, c, n, n)."""
        return self.generator(noisy, level, condition, models.ReadReferences(fine, coarse, mean))


class _Alone(nn.Module):
    """A network that is a graph by itself, under its own name, which its weights' names begin with."""

    def __init__(self, networks: models.Networks, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, getattr(networks, name))

    def forward(self, inputs: Tensor) -> Tensor:
        """What the network makes of its one input."""
        return getattr(self, self.name)(inputs)


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
        "sampler": "z = z - (s - t) * v from s = 1 (noise) to 0; guidance: v = v_null + guidance * (v - v_null)",
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


def export_without_references(
    model: Path | str, out: Path | str, *, overwrite: bool = False
) -> Path:
    """Write a model without the training pictures that it draws from, compressed as they are in its file.

    Args:
        model: a weights file.
        out: the new one.
        overwrite: replace what is there.

    Raises:
        WeightsError: no such model, or a broken one.
        OutputError: the file is there, or cannot be written.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: is there already", "use -f, or name another file with -o")
    loaded = load_model(model)
    meta = loaded.info.metadata
    save_model(
        out,
        {name: network.state_dict() for name, network in loaded.networks.named_children()},
        loaded.config,
        loaded.tokenizer,
        words=loaded.words,
        title=loaded.info.title,
        license=loaded.info.license,
        description=meta.get("modelspec.description", ""),
        tags=meta.get("modelspec.tags", ""),
        extra={key: value for key, value in meta.items() if key.startswith("t2i.")},
    )
    return out


def _protos(networks: models.Networks, config: ModelConfig) -> Iterator[tuple[str, Any]]:
    """Name and ONNX model of each graph, batch, tokens and references free."""
    n, k, side = config.cells, 2, config.resolution
    fine, coarse = config.channels
    batch = torch.export.Dim("b", min=1, max=4096)
    words = torch.export.Dim("t", min=2, max=config.text.context_length)
    count = torch.export.Dim("k", min=1, max=64)
    cells, coarse_cells = (torch.export.Dim(name, min=1, max=65_536) for name in ("m", "q"))
    tokens = torch.full((2, min(12, config.text.context_length)), 3)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    kinds = torch.zeros(2, len(config.attributes), dtype=torch.int64)
    latents = torch.zeros(2, config.latent_channels, n, n)
    references = latents[:, None].repeat(1, k, 1, 1, 1)
    reference_kinds = kinds[:, None].repeat(1, k, 1)
    read = (
        torch.zeros(2, 1 + k * n * n, fine),
        torch.zeros(2, 1 + k * n * n // 4, coarse),
        torch.zeros(2, fine, n, n),
    )
    images = torch.zeros(2, 4, side, side)
    condition = torch.zeros(2, 3 * fine)
    texts, first, several = {0: batch, 1: words}, {0: batch}, {0: batch, 1: count}
    jobs = {
        "text": (_Text(networks), (tokens, mask, kinds), (texts, texts, first), ["tokens", "mask", "attributes"],
                 ["text_features", "query", "condition"]),
        "null": (_Null(networks), (kinds,), (first,), ["attributes"], ["condition"]),
        "references": (_References(networks), (references, reference_kinds), (several, several),
                       ["latents", "attributes"], ["fine", "coarse", "mean"]),
        "generator": (_Generator(networks), (latents, torch.ones(2), condition, *read),
                      (first, first, first, {0: batch, 1: cells}, {0: batch, 1: coarse_cells}, first),
                      ["noisy", "level", "condition", "fine", "coarse", "mean"], ["velocity"]),
        "decoder": (_Alone(networks, "decoder"), (latents,), (first,), ["latents"], ["images"]),
        "encoder": (_Alone(networks, "encoder"), (images,), (first,), ["images"], ["latents"]),
        "image_encoder": (_Alone(networks, "image_encoder"), (images,), (first,), ["images"], ["image_features"]),
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
