"""Networks, config and tokenizer <-> one ``.safetensors`` file that is enough to share.

What enters is held to the same bounds whoever made it: the config is validated, the networks are
built without memory, and the file's tensors must have exactly their names, shapes and types and
finite values. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from t2i_cli.checkpoint.files import write_atomic
from t2i_cli.checkpoint.safetensors_file import (
    DATA_HASH,
    Header,
    TensorInfo,
    data_digest,
    header_bytes,
    layout,
    read_data,
    read_header,
)
from t2i_cli.config import ModelConfig
from t2i_cli.errors import InputError, TokenizerError, TrainingError, UsageError, WeightsError
from t2i_cli.folders import DEFAULT_MODEL
from t2i_cli.words import MAX_BYTES as MAX_WORDS
from t2i_cli.words import Words

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from t2i_cli.models import Networks

__all__ = [
    "LoadedModel",
    "WeightsInfo",
    "check_reader",
    "load_model",
    "load_tensors",
    "read_info",
    "read_reader",
    "resolve_model",
    "save_model",
    "save_tensors",
    "shipped_models",
]

FORMAT = "1"  # of the keys under t2i.; a reader refuses what it does not know
TOKENIZER = "tokenizer"  # name of the uint8 tensor that holds the tokenizer's file
WORDS = "words"  # and of the one that holds the list of words, where there is one
MAX_TOKENIZER = 32 * 2**20  # bytes
_NETWORKS = ("text_encoder", "image_encoder", "generator", "discriminator")


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about itself, read without its tensors."""

    path: Path
    config: ModelConfig
    metadata: dict[str, str]  # every key, as it stands in the file: text from a stranger
    tensors: dict[str, TensorInfo]
    size: int  # bytes of the file
    networks: tuple[str, ...]  # which it holds
    hash: str = ""  # SHA-256 of the tensor bytes, 64 hexadecimal digits
    header: Header = field(repr=False, compare=False, default_factory=lambda: Header({}, {}, 0, 0))

    @property
    def title(self) -> str:
        """The model's name as its maker gave it."""
        return self.metadata.get("modelspec.title", "")

    @property
    def license(self) -> str:
        """The license as its maker gave it."""
        return self.metadata.get("modelspec.license", "")

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers in each network."""
        counts = dict.fromkeys(self.networks, 0)
        for name, info in self.tensors.items():
            network = name.partition(".")[0]
            if network in counts:
                counts[network] += math.prod(info.shape)
        return counts


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be used."""

    config: ModelConfig
    networks: Networks  # float32, in evaluation mode, without gradients
    tokenizer: bytes  # the tokenizer's file
    info: WeightsInfo
    words: bytes = b""  # the list of `t2i_cli.words`, where the file has one


def save_model(
    path: Path | str,
    networks: Mapping[str, Mapping[str, Tensor]],
    config: ModelConfig,
    tokenizer: bytes,
    *,
    words: bytes = b"",
    title: str = "",
    license: str = "",
    description: str = "",
    tags: tuple[str, ...] | list[str] | str = (),
    extra: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Write a model to one file, whole or not at all.

    Args:
        path: where to.
        networks: name (text_encoder, image_encoder, generator, perhaps discriminator) -> its
            ``state_dict()``.
        config: what they were built from.
        tokenizer: the tokenizer's file.
        words: the list of `t2i_cli.words`, if any.
        title: the model's name.
        license: SPDX expression or text.
        description: a sentence or more.
        tags: words to find it by.
        extra: more metadata; keys begin with ``t2i.`` or ``modelspec.``.
        dtype: of float tensors in the file: bfloat16 where none is given.

    Returns:
        SHA-256 of the tensor bytes, 64 hexadecimal digits: the model's identity.

    Raises:
        TrainingError: a tensor holds NaN or infinity; nothing was written.
        OutputError: the file could not be written; the old one is as it was.
    """
    import torch

    dtype = dtype or torch.bfloat16
    if unknown := set(networks) - set(_NETWORKS):
        raise ValueError(f"networks: expected some of {_NETWORKS}, got {sorted(unknown)}")
    tensors: dict[str, Tensor] = {
        TOKENIZER: torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
        if tokenizer
        else torch.empty(0, dtype=torch.uint8)
    }
    if words:
        tensors[WORDS] = torch.frombuffer(bytearray(words), dtype=torch.uint8)
    for network, state in networks.items():
        for name, value in state.items():
            tensors[f"{network}.{name}"] = value
    metadata = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "t2i-one-step-gan",
        "modelspec.implementation": "t2i",
        "modelspec.title": title or "t2i model",
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "modelspec.date": _date(),
        "modelspec.license": license,
        "modelspec.description": description,
        "modelspec.tags": tags if isinstance(tags, str) else ", ".join(tags),
        **(extra or {}),
        "t2i.format": FORMAT,
        "t2i.config": json.dumps(config.to_dict(), sort_keys=True, separators=(",", ":")),
        "t2i.networks": ",".join(name for name in _NETWORKS if name in networks),
        "t2i.dtype": _DTYPE_NAMES()[dtype],
    }
    return save_tensors(path, tensors, metadata, dtype=dtype)


def load_model(path: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Read a model, check it whole, and build its networks on ``device``.

    Raises:
        WeightsError: the file is missing, cut, changed, hostile, or not what its config builds.
    """
    import torch

    from t2i_cli import models

    path = Path(path)
    with _opened(path) as file:
        info = _info(file, path)
        networks = _build(models.build, info)
        expected = networks.state_dict()
        _check_tensors(
            info, {name: (value.dtype, tuple(value.shape)) for name, value in expected.items()}
        )
        data = read_data(file, info.header, path)
    state = _as_tensors(info.header, data)
    tokenizer = state.pop(TOKENIZER).numpy().tobytes()
    words = state.pop(WORDS).numpy().tobytes() if WORDS in state else b""
    check_reader(info, tokenizer, words)
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(
                f"{path}: tensor {name} holds NaN or infinity",
                "the model was not trained well: take another",
            )
        like = expected[name]  # its strides too: convolutions keep their weights channels-last
        state[name] = torch.empty_strided(
            like.shape, like.stride(), dtype=like.dtype, device=device
        ).copy_(value)
    networks.load_state_dict(state, strict=True, assign=True)
    networks.to(device).eval().requires_grad_(False)
    return LoadedModel(info.config, networks, tokenizer, info, words)


def read_info(path: Path | str, *, verify: bool = False) -> WeightsInfo:
    """What a weights file says about itself. Imports no torch and keeps no tensor.

    Args:
        path: a weights file.
        verify: also check the tensor bytes against their SHA-256, in little memory.

    Raises:
        WeightsError: the file is missing, cut, changed or not one of ours.
    """
    path = Path(path)
    with _opened(path) as file:
        info = _info(file, path)
        if verify:
            read_data(file, info.header, path, keep=False)
    return info


def read_reader(path: Path | str) -> tuple[bytes, bytes]:
    """What reads prompts, out of a weights file, checked: the tokenizer's file and the list of words, or b"".

    Imports no torch.

    Raises:
        WeightsError: the file is missing, cut, changed or not one of ours.
    """
    path = Path(path)
    with _opened(path) as file:
        info = _info(file, path)
        read_data(file, info.header, path, keep=False)

        def tensor(name: str) -> bytes:
            place = info.tensors[name]
            file.seek(info.header.data_start + place.start)
            return file.read(place.end - place.start)

        tokenizer, words = tensor(TOKENIZER), tensor(WORDS) if WORDS in info.tensors else b""
    check_reader(info, tokenizer, words)
    return tokenizer, words


def shipped_models() -> dict[str, Path]:
    """Name -> weights file of the models that come with the package."""
    package = Path(__file__).parent.parent
    found: dict[str, Path] = {}
    for folder in (package / "weights", package.parent / "weights"):
        if folder.is_dir():
            for path in sorted(folder.glob("*.safetensors")):
                found.setdefault(path.stem, path)
    return found


def resolve_model(name: str | Path | None = None) -> Path:
    """The weights file that a user means: a path, a run folder, or the name of a shipped model.

    Args:
        name: what was given; None takes ``T2I_MODEL``, and without that the shipped default.

    Raises:
        WeightsError: there is no such model, or the run has saved none yet.
        UsageError: a name that asks for the network.
    """
    shipped = shipped_models()
    name = name if name is not None else os.environ.get("T2I_MODEL") or None
    if name is None:
        if not shipped:
            raise WeightsError(
                "no model is shipped with this installation",
                "give one with -m FILE, or train one: t2i train",
            )
        return shipped.get(DEFAULT_MODEL) or next(iter(shipped.values()))
    if str(name).startswith("hf:"):
        raise UsageError(
            f"{name}: models are not fetched from the network",
            "download the file and give its path",
        )
    path = Path(name)
    try:
        if path.is_dir():
            for inside in ("model.safetensors", "best.safetensors"):
                if (path / inside).is_file():
                    return path / inside
        elif path.exists():
            return path
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name}: cannot be read: {error}") from error
    if str(name) in shipped:
        return shipped[str(name)]
    if path.is_dir():
        raise WeightsError(
            f"{name}: this folder holds no model.safetensors",
            "wait for the run's first save, or name another folder",
        )
    names = ", ".join(shipped) or "none"
    raise WeightsError(
        f"{name}: no such model", f"give a weights file, a run folder or a shipped name ({names})"
    )


def save_tensors(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    dtype: torch.dtype | None = None,
) -> str:
    """Write named tensors and text to a safetensors file with both digests, whole or not at all.

    Args:
        path: where to.
        tensors: name -> tensor, any device and strides.
        metadata: text -> text.
        dtype: of float tensors in the file; None keeps each as it is.

    Returns:
        SHA-256 of the tensor bytes, 64 hexadecimal digits.

    Raises:
        TrainingError: a tensor holds NaN or infinity; nothing was written.
        OutputError: the file could not be written; the old one is as it was.
    """
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, value in tensors.items():
        target = dtype if dtype is not None and value.is_floating_point() else value.dtype
        kinds[name] = (_DTYPE_NAMES()[target], tuple(value.shape))
    order = layout(kinds)

    def chunks() -> Iterator[memoryview]:
        for name in order:
            yield _raw(tensors[name], dtype, f"{path}: not written: tensor {name}")

    digest = data_digest(chunks())
    start, _ = header_bytes(kinds, metadata, digest)

    def write(file: IO[bytes]) -> None:
        file.write(start)
        for chunk in chunks():
            file.write(chunk)

    write_atomic(path, write)
    return digest


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors (on the CPU, as saved) and text out of a file that `save_tensors` wrote.

    Raises:
        WeightsError: the file is missing, cut or changed.
    """
    path = Path(path)
    with _opened(path) as file:
        header = read_header(file, path)
        data = read_data(file, header, path)
    return _as_tensors(header, data), header.metadata


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, open; whatever goes wrong in reading it becomes a WeightsError that names it."""
    hint = "give a weights file, a run folder or a shipped name"
    try:
        if not path.is_file():
            raise WeightsError(f"{path}: {'not a file' if path.exists() else 'no such file'}", hint)
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: cannot be read: {reason}") from error


def _info(file: IO[bytes], path: Path) -> WeightsInfo:
    header = read_header(file, path)
    metadata = header.metadata
    if metadata.get("t2i.format") != FORMAT:
        raise WeightsError(
            f"{path}: format {metadata.get('t2i.format', 'none')[:20]!r}, expected {FORMAT!r}",
            "it holds no model" if "t2i.format" not in metadata else "it needs a newer t2i",
        )
    try:
        config = ModelConfig.from_dict(json.loads(metadata.get("t2i.config", "null")))
    except InputError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (ValueError, TypeError, RecursionError, OverflowError, ArithmeticError) as error:
        raise WeightsError(f"{path}: its config is not valid ({str(error)[:100]})") from error
    networks = tuple(metadata.get("t2i.networks", "").split(","))
    if networks not in (_NETWORKS, _NETWORKS[:3]):
        raise WeightsError(
            f"{path}: it holds the networks {networks!r:.200}, expected {', '.join(_NETWORKS[:3])}"
        )
    tokenizer = header.tensors.get(TOKENIZER)
    if (
        tokenizer is None
        or tokenizer.dtype != "U8"
        or len(tokenizer.shape) != 1
        or tokenizer.shape[0] > MAX_TOKENIZER
    ):
        raise WeightsError(
            f"{path}: it holds no tokenizer (a uint8 tensor of at most {MAX_TOKENIZER:,} bytes)"
        )
    words = header.tensors.get(WORDS)
    if words is not None and (
        words.dtype != "U8" or len(words.shape) != 1 or words.shape[0] > MAX_WORDS
    ):
        raise WeightsError(
            f"{path}: its words are no list (a uint8 tensor of at most {MAX_WORDS:,} bytes)"
        )
    return WeightsInfo(
        path=path,
        config=config,
        metadata=metadata,
        tensors=header.tensors,
        size=header.data_start + header.data_size,
        networks=networks,
        hash=metadata[DATA_HASH].removeprefix("0x"),
        header=header,
    )


def _build(build: Callable[..., Networks], info: WeightsInfo) -> Networks:
    """The config's networks with memory for their weights and nothing in it.

    Not on the meta device: its first use imports 800 modules, which takes longer than all the rest
    of loading. The bound is the file's own: what its config allocates must fit its tensors.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    allocators = {
        torch.empty, torch.zeros, torch.ones, torch.full, torch.randn, torch.rand, torch.tensor,
        torch.arange, torch.eye, torch.linspace,
    }  # fmt: skip
    fillers = {"normal_", "uniform_", "trunc_normal_", "zero_", "fill_", "copy_"}

    class Bounded(TorchFunctionMode):
        left = info.header.data_size + 2**20  # elements; each takes a byte or more in the file

        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if getattr(func, "__name__", "") in fillers:
                target = args[0] if args else kwargs.get("tensor")
                if isinstance(target, torch.nn.Parameter):
                    return target
            result = func(*args, **kwargs)
            if func in allocators:
                self.left -= result.numel()
                if self.left < 0:
                    raise WeightsError(f"{info.path}: its tensors are too few for its config")
            return result

    try:
        with Bounded():
            return build(info.config, discriminator="discriminator" in info.networks)
    except InputError as error:
        raise WeightsError(f"{info.path}: {str(error).removeprefix(f'{info.path}: ')}") from error
    except (ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise WeightsError(
            f"{info.path}: its config builds no networks ({str(error)[:200]})"
        ) from error


def check_reader(info: WeightsInfo, tokenizer: bytes, words: bytes) -> None:
    """Check what reads prompts.

    Raises:
        WeightsError: the tokenizer cannot be read or gives tokens that the networks do not know; the words are no list.
    """
    from t2i_cli.tokenizer import Tokenizer

    try:
        pieces = Tokenizer(tokenizer).vocab_size
    except TokenizerError as error:
        raise WeightsError(f"{info.path}: its tokenizer is not valid: {error}") from error
    if pieces != info.config.text.vocab_size:
        raise WeightsError(
            f"{info.path}: its tokenizer has {pieces} pieces, its config {info.config.text.vocab_size}"
        )

    try:
        Words.from_bytes(words)
    except InputError as error:
        raise WeightsError(f"{info.path}: its words are no list: {error}") from error


def _check_tensors(
    info: WeightsInfo, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> None:
    """Raise WeightsError unless the file holds exactly these tensors, floats in its own type."""
    names, given = _DTYPE_NAMES(), set(info.tensors) - {TOKENIZER, WORDS}
    stored = info.metadata.get("t2i.dtype", "")
    if stored not in ("F32", "BF16", "F16"):
        raise WeightsError(
            f"{info.path}: float tensors of type {stored[:20]!r}, expected BF16, F16 or F32"
        )
    if given != set(expected):
        odd = sorted(given ^ set(expected))
        what = "it lacks" if odd[0] in expected else "it has"
        raise WeightsError(
            f"{info.path}: {len(odd)} tensors are not those of its config: {what} {odd[0][:200]!r}"
        )
    for name, (dtype, shape) in expected.items():
        wanted = stored if dtype.is_floating_point else names[dtype]
        found = info.tensors[name]
        if (found.dtype, found.shape) != (wanted, shape):
            raise WeightsError(
                f"{info.path}: tensor {name} is {found.dtype} {list(found.shape)}, "
                f"its config needs {wanted} {list(shape)}"
            )


def _as_tensors(header: Header, data: bytearray) -> dict[str, Tensor]:
    """Views into ``data``, without a copy."""
    import torch

    kinds = {name: dtype for dtype, name in _DTYPE_NAMES().items()}
    out: dict[str, Tensor] = {}
    for name, info in header.tensors.items():
        if info.end == info.start:
            out[name] = torch.empty(info.shape, dtype=kinds[info.dtype])
            continue
        flat = torch.frombuffer(
            data, dtype=kinds[info.dtype], count=math.prod(info.shape), offset=info.start
        )
        out[name] = flat.reshape(info.shape)
    return out


def _raw(value: Tensor, dtype: torch.dtype | None, refusal: str) -> memoryview:
    """The bytes of a tensor, C order, after the check that they are worth saving."""
    import torch

    value = value.detach().cpu()
    if value.is_floating_point():
        value = value.to(dtype or value.dtype)
        if not bool(torch.isfinite(value).all()):
            raise TrainingError(
                f"{refusal} holds NaN or infinity",
                "start again from an earlier state, or with a lower --lr",
            )
    array: Any = value.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _DTYPE_NAMES() -> dict[torch.dtype, str]:  # noqa: N802 - a table that needs torch
    import torch

    return {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8:
        "U8", torch.bool: "BOOL", torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64",
    }  # fmt: skip


def _date() -> str:
    """Now, UTC, ISO 8601; or ``SOURCE_DATE_EPOCH``, so that a build can be repeated."""
    try:
        seconds = int(os.environ["SOURCE_DATE_EPOCH"])
    except (KeyError, ValueError):
        seconds = int(time.time())
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
