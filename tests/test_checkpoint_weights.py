"""The weights file: what was saved comes back; what is cut, flipped or hostile is refused in one line."""

import ast
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

import t2i_cli
from t2i_cli.checkpoint import (
    load_model,
    read_info,
    read_reader,
    resolve_model,
    save_model,
    weights,
)
from t2i_cli.checkpoint.safetensors_file import DATA_HASH, HEADER_HASH, data_digest, header_bytes
from t2i_cli.errors import OutputError, UsageError, WeightsError
from t2i_cli.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    faults.save_tiny(
        path, 1, license="Apache-2.0", tags=("icons", "test"), extra={"t2i.steps": "12"}
    )
    return path


def refused(path: Path, read: Callable[[Path], object] = load_model) -> str:
    """The one line with which a file is refused; exit 3, and its name in it."""
    with pytest.raises(WeightsError) as told:
        read(path)
    text = str(told.value)
    assert str(path) in text
    assert text.isprintable()
    assert told.value.exit_code == 3
    return text


def test_what_was_saved_comes_back(tiny: Path):
    model = load_model(tiny)
    networks = faults.tiny_networks(1)
    assert model.config == faults.tiny_config()
    assert model.tokenizer == faults.TOKENIZER
    expected = networks.state_dict()
    found = model.networks.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value.bfloat16().float()), name
        assert found[name].stride() == value.stride(), name
    assert not model.networks.training
    assert not any(value.requires_grad for value in model.networks.parameters())


def test_in_float32_nothing_is_rounded(tmp_path: Path):
    faults.save_tiny(tmp_path / "a.safetensors", 2, dtype=torch.float32)
    found = load_model(tmp_path / "a.safetensors").networks.state_dict()
    assert all(
        torch.equal(found[name], value)
        for name, value in faults.tiny_networks(2).state_dict().items()
    )


def test_every_network_is_needed(tmp_path: Path):
    states = faults.tiny_states()
    states.pop("decoder")
    with pytest.raises(ValueError, match="decoder"):
        save_model(tmp_path / "a.safetensors", states, faults.tiny_config(), faults.TOKENIZER)
    assert not (tmp_path / "a.safetensors").exists()


def test_metadata_is_what_other_tools_look_for(tiny: Path):
    with safe_open(tiny, "pt") as file:
        told = file.metadata()
    assert told["format"] == "pt"
    assert told["modelspec.sai_model_spec"] == "1.0.1"
    for key in [
        "architecture",
        "implementation",
        "title",
        "resolution",
        "date",
        "license",
        "description",
        "tags",
        "hash_sha256",
    ]:
        assert f"modelspec.{key}" in told
    assert told["modelspec.resolution"] == "32x32"
    assert told["modelspec.tags"] == "icons, test"
    assert told["modelspec.license"] == "Apache-2.0"
    assert told["t2i.steps"] == "12"
    assert all(key == "format" or key.startswith(("modelspec.", "t2i.")) for key in told)
    assert json.loads(told["t2i.config"]) == faults.tiny_config().to_dict()


def test_any_reader_of_safetensors_reads_it(tiny: Path):
    plain, ours = load_file(tiny), load_model(tiny).networks.state_dict()
    assert bytes(plain.pop("tokenizer").tolist()) == faults.TOKENIZER
    for name, values in faults.tiny_store().arrays().items():
        assert plain.pop(f"references.{name}").numpy().tobytes() == values.tobytes()
    assert sorted(plain) == sorted(ours)
    assert all(torch.equal(plain[name].float(), ours[name]) for name in plain)


def test_the_hash_is_of_the_tensor_bytes_alone(tmp_path: Path, tiny: Path):
    one = faults.save_tiny(tmp_path / "a.safetensors", 1, description="other words")
    assert one == read_info(tiny).hash
    assert (tmp_path / "a.safetensors").read_bytes() != tiny.read_bytes()
    assert faults.save_tiny(tmp_path / "b.safetensors", 2) != one


def test_the_same_model_at_the_same_date_is_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    for name in ("a", "b"):
        faults.save_tiny(tmp_path / name, 1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_info(tmp_path / "a").metadata["modelspec.date"] == "1970-01-02T00:00:00Z"


def test_what_it_says_about_itself_needs_no_torch(tiny: Path):
    code = (
        "import sys; from t2i_cli.checkpoint import read_info, read_reader, resolve_model; p = sys.argv[1];"
        "i = read_info(resolve_model(p), verify=True); assert read_reader(p);"
        "print(i.title, i.config.resolution, sum(i.parameters.values()), 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", code, str(tiny)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    count = sum(value.numel() for value in faults.tiny_networks().state_dict().values())
    assert told.stdout == f"tiny 1 32 {count} False\n"
    assert read_reader(tiny) == (faults.TOKENIZER, b"")


# Promise 1: any truncation, any flipped bit


def test_every_truncation_is_refused(tmp_path: Path, tiny: Path):
    whole = tiny.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole)
    places = {*range(64), *range(64, len(whole), 997), *range(len(whole) - 64, len(whole))}
    for size in sorted(places, reverse=True):
        os.truncate(path, size)
        refused(path)
        refused(path, read_info)
    path.write_bytes(whole + b"\0")
    assert "too long" in refused(path)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_every_flipped_bit_is_refused(tmp_path: Path, tiny: Path):
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(tiny.read_bytes())
    start = read_info(tiny).header.data_start
    size = tiny.stat().st_size
    chance = random.Random(7)
    bits = [
        *range(64),
        *(chance.randrange(64, start * 8) for _ in range(300)),
        *range(start * 8 - 64, start * 8),
    ]
    for bit in bits:  # length, header, padding
        flip(path, bit)
        refused(path, read_info)
        refused(path)
        flip(path, bit)
    for bit in [
        *(chance.randrange(start * 8, size * 8) for _ in range(150)),
        start * 8,
        size * 8 - 1,
    ]:
        flip(path, bit)
        assert "damaged" in refused(path)
        refused(path, lambda path: read_info(path, verify=True))
        refused(path, read_reader)
        flip(path, bit)
    load_model(path)


def test_a_digest_cannot_be_hidden_or_doubled(tmp_path: Path, tiny: Path):
    raw = tiny.read_bytes()
    told = read_info(tiny).metadata
    for old, new in (
        (told[HEADER_HASH].encode(), told[HEADER_HASH].upper().encode()),
        (told[HEADER_HASH].encode(), b"0" * 64),
        (f'"{HEADER_HASH}"'.encode(), f'"{HEADER_HASH[:-1]}7"'.encode()),
        (f'"{DATA_HASH}"'.encode(), f'"{DATA_HASH[:-1]}7"'.encode()),
        (told[DATA_HASH].encode(), b"0x" + b"f" * 64),
        (b'"t2i.', b'"T2I.'),
    ):
        assert raw.count(old) >= 1
        (tmp_path / "x.safetensors").write_bytes(raw.replace(old, new))
        refused(tmp_path / "x.safetensors", read_info)


# Promise 12: hostile files


def forge(
    path: Path,
    tensors: dict[str, tuple[str, tuple[int, ...]]] | None = None,
    metadata: dict[str, str] | None = None,
    data: bytes | None = None,
    source: Path | None = None,
) -> Path:
    """A file with digests that hold, of somebody who can compute them too."""
    assert source is not None
    info = read_info(source)
    kinds = {name: (item.dtype, item.shape) for name, item in info.tensors.items()}
    body = source.read_bytes()[info.header.data_start :]
    kinds, body = tensors if tensors is not None else kinds, data if data is not None else body
    start, _ = header_bytes(kinds, {**info.metadata, **(metadata or {})}, data_digest([body]))
    path.write_bytes(start + body)
    return path


def test_a_forged_file_that_is_sound_loads(tmp_path: Path, tiny: Path):
    load_model(forge(tmp_path / "x.safetensors", source=tiny))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, tiny: Path, bad: float):
    info = read_info(tiny)
    body = bytearray(tiny.read_bytes()[info.header.data_start :])
    place = info.tensors["generator.conv_out.weight"].start
    body[place : place + 2] = struct.pack("<f", bad)[2:]
    text = refused(forge(tmp_path / "x.safetensors", data=bytes(body), source=tiny))
    assert "generator.conv_out.weight holds NaN or infinity" in text


def altered(
    tiny: Path, name: str, dtype: str, shape: tuple[int, ...]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    kinds = {key: (item.dtype, item.shape) for key, item in read_info(tiny).tensors.items()}
    kinds[name] = (dtype, shape)
    return kinds


def test_names_shapes_and_types_are_exactly_the_configs(tmp_path: Path, tiny: Path):
    path = tmp_path / "x.safetensors"
    name = "generator.conv_out.weight"
    shape = read_info(tiny).tensors[name].shape
    kinds = altered(tiny, name, "BF16", shape)
    renamed = {
        ("generator.conv_out.wait" if key == name else key): value for key, value in kinds.items()
    }
    assert "not those of its config" in refused(forge(path, renamed, source=tiny))
    turned = altered(tiny, name, "BF16", (shape[1], shape[0], *shape[2:]))
    assert "its config needs BF16" in refused(forge(path, turned, source=tiny))
    assert "is F16" in refused(forge(path, altered(tiny, name, "F16", shape), source=tiny))
    more = {**kinds, "generator.more\x1b[31m": ("U8", (0,))}
    assert "\\x1b[31m" in refused(forge(path, more, source=tiny))
    without = {key: value for key, value in kinds.items() if key != "tokenizer"}
    assert "no tokenizer" in refused(
        forge(path, without, data=bytes(weights_size(without)), source=tiny)
    )
    number = ("U8", (len(faults.TOKENIZER) // 2, 2))
    assert "no tokenizer" in refused(forge(path, {**kinds, "tokenizer": number}, source=tiny))


def weights_size(kinds: dict[str, tuple[str, tuple[int, ...]]]) -> int:
    from t2i_cli.checkpoint.safetensors_file import DTYPES

    return sum(DTYPES[dtype] * torch.Size(shape).numel() for dtype, shape in kinds.values())


def test_a_tokenizer_that_is_none_or_does_not_fit_is_refused(tmp_path: Path, tiny: Path):
    networks = faults.tiny_states()
    path = tmp_path / "x.safetensors"
    more = train_tokenizer(["one two three four five six seven eight nine ten"] * 9).to_bytes()
    for tokenizer, why in (
        (b"", "its tokenizer is not valid"),
        (b"junk" * 99, "its tokenizer is not valid"),
        (faults.TOKENIZER[:-9], "its tokenizer is not valid"),
        (more, "pieces, its config"),
    ):
        save_model(path, networks, faults.tiny_config(), tokenizer)
        assert why in refused(path)
        assert why in refused(path, read_reader)


def test_words_travel_in_the_file_and_what_is_no_list_is_refused(tmp_path: Path, tiny: Path):
    networks = faults.tiny_states()
    path = tmp_path / "x.safetensors"
    hashes: set[str] = set()
    for words in (b"a\ncat\nkitty=cat\n", "größe\n".encode(), b""):
        save_model(path, networks, faults.tiny_config(), faults.TOKENIZER, words=words)
        assert load_model(path).words == words
        assert read_reader(path) == (faults.TOKENIZER, words)
        hashes.add(read_info(path).hash)
    assert len(hashes) == 3  # a model that reads otherwise is another model
    save_model(path, networks, faults.tiny_config(), faults.TOKENIZER, words=b"\xff\xfe")
    for read in (load_model, read_reader):
        assert "its words are no list" in refused(path, read)
    kinds = {name: (info.dtype, info.shape) for name, info in read_info(tiny).tensors.items()}
    for odd in (("U8", (2, 2)), ("F32", (4,)), ("U8", (5 * 2**20,))):
        more = {**kinds, "words": odd}
        said = refused(forge(path, more, data=bytes(weights_size(more)), source=tiny), read_info)
        assert "its words are no list" in said


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"t2i.format": "3"}, "needs a newer t2i"),
        ({"t2i.format": "1"}, "made by t2i 0.1, whose models drew pixels"),
        ({"t2i.format": "1", "t2i.config": '{"fold": 2, "image_channels": 4}'}, "train again"),
        ({"t2i.config": "{"}, "config"),
        ({"t2i.config": "[" * 50_000}, "config"),
        ({"t2i.config": "{}"}, "config"),
        ({"t2i.config": "null"}, "config"),
        ({"t2i.config": '{"resolution": 1e999}'}, "config"),
        ({"t2i.networks": "generator"}, "networks"),
        ({"t2i.networks": "text_encoder,image_encoder,generator,\x1b]0;x"}, "networks"),
        ({"t2i.networks": "text_encoder,image_encoder,encoder,generator,decoder"}, "networks"),
        ({"t2i.dtype": "F8"}, "float tensors"),
        ({"t2i.dtype": "F32"}, "its config needs F32"),
    ],
)
def test_metadata_out_of_bounds_is_refused(
    tmp_path: Path, tiny: Path, metadata: dict[str, str], why: str
):
    path = forge(tmp_path / "x.safetensors", metadata=metadata, source=tiny)
    with pytest.raises(WeightsError) as told:
        load_model(path)
    assert why in str(told.value) + told.value.hint


def test_a_config_that_asks_for_a_hundred_gigabytes_costs_none(tmp_path: Path, tiny: Path):
    config = {
        **faults.tiny_config().to_dict(), "resolution": 256, "cells": 16, "patch": 1, "channels": [4096, 4096],
        "blocks": 16, "autoencoder_blocks": 16, "encoder_channels": [4096] * 5, "decoder_channels": [4096] * 5,
        "image_encoder_channels": [4096] * 8,
    }  # fmt: skip
    config["text"] = {**config["text"], "vocab_size": 262_144, "dim": 4096, "depth": 64}
    name = (
        "references.keys"  # what is left of the store must fit the config, or it is refused before
    )
    kinds = altered(tiny, name, "I8", (0, 4096))
    kinds["references.latents"] = ("I8", (0, 2, 16, 16))
    kinds["references.attributes"], kinds["references.sources"] = ("I16", (0, 1)), ("I32", (0,))
    path = forge(
        tmp_path / "x.safetensors", kinds, {"t2i.config": json.dumps(config)},
        bytes(weights_size(kinds)), tiny,
    )  # fmt: skip
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert "too few" in refused(path)
    assert time.process_time() - begun < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def raw_file(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b'{"__metadata__":[]}',
        b'{"__metadata__":{"t2i.format":1}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}',
        b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":'
        + b"[1," * 40
        + b"1"
        + b"]" * 40
        + b',"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":null}',
        b'\xff\xfe{"a":1}',
        b'{"\\ud800":{}}',
    ],
)
def test_headers_that_are_none_are_refused(tmp_path: Path, header: bytes):
    path = raw_file(tmp_path / "x.safetensors", header, b"\0" * 4)
    refused(path, read_info)
    from t2i_cli.checkpoint.safetensors_file import read_header

    if header not in (b"{}",):
        with path.open("rb") as file, pytest.raises(WeightsError):
            read_header(file, path, strict=False)


def test_a_header_beyond_a_megabyte_is_not_read(tmp_path: Path):
    for length in (1_000_001, 2**31, 2**63, 2**64 - 1):
        path = raw_file(tmp_path / "x.safetensors", b"{", length=length)
        assert "header" in refused(path)
    entries = ",".join(
        f'"{"x" * 60}{n}":{{"dtype":"U8","shape":[],"data_offsets":[{n},{n + 1}]}}'
        for n in range(400_000)
    )
    path = raw_file(tmp_path / "x.safetensors", f"{{{entries}}}".encode(), bytes(400_000))
    assert path.stat().st_size > 45e6
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refused(path)
    assert time.process_time() - begun < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB


def test_at_most_ten_thousand_tensors(tmp_path: Path):
    from t2i_cli.checkpoint.safetensors_file import read_header

    for count, accepted in ((10_000, True), (10_001, False)):
        entry = '"{0}":{{"dtype":"U8","shape":[],"data_offsets":[{0},{1}]}}'
        text = "{" + ",".join(entry.format(n, n + 1) for n in range(count)) + "}"
        path = raw_file(tmp_path / "x.safetensors", text.encode(), bytes(count))
        with path.open("rb") as file:
            if accepted:
                assert len(read_header(file, path, strict=False).tensors) == count
            else:
                with pytest.raises(WeightsError, match="10,001 tensors"):
                    read_header(file, path, strict=False)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=40), st.booleans())
def test_no_bytes_crash_the_reader(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, data: bytes, honest: bool
):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    if honest:
        raw_file(path, header, data)
    else:
        path.write_bytes(header + data)
    refused(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["F32", "U8"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a"]) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["__metadata__", "a", "b"]), JSON, max_size=3),
    st.binary(max_size=16),
)
def test_no_json_crashes_the_reader(
    tmp_path_factory: pytest.TempPathFactory, table: dict, data: bytes
):
    path = raw_file(
        tmp_path_factory.getbasetemp() / "fuzz.safetensors", json.dumps(table).encode(), data
    )
    refused(path)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(faults.tiny_config().to_dict())), JSON)
def test_no_config_crashes_the_reader(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, field: str, value: object
):
    config = {**faults.tiny_config().to_dict(), field: value}
    path = tmp_path_factory.getbasetemp() / "config.safetensors"
    forge(path, metadata={"t2i.config": json.dumps(config)}, source=tiny)
    if value != faults.tiny_config().to_dict()[field]:
        try:
            load_model(path)
        except WeightsError as error:
            assert str(path) in str(error)
        else:
            # a name alone, which builds the same networks; or whether pictures have an alpha channel
            assert field in ("size", "opaque")


def test_a_plain_safetensors_file_is_told_apart(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert "not a t2i weights file" in refused(tmp_path / "x.safetensors")


def test_missing_files_and_folders(tmp_path: Path):
    assert "no such file" in refused(tmp_path / "none.safetensors")
    assert "not a file" in refused(tmp_path)
    with pytest.raises(WeightsError):
        load_model("a\0b")
    with pytest.raises(OutputError):
        faults.save_tiny(tmp_path)


# Promise 11: nothing is unpickled


def test_no_source_line_can_unpickle():
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "yaml"}
    found: list[str] = []
    for path in sorted(Path(t2i_cli.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [name.name.partition(".")[0] for name in node.names]
                names += [name.name for name in node.names if "distributed.checkpoint" in name.name]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").partition(".")[0]]
                names += [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Call):
                names = [ast.unparse(node.func)]
                if names[0] in ("np.load", "numpy.load"):
                    safe = [key for key in node.keywords if key.arg == "allow_pickle"]
                    if any(ast.unparse(key.value) != "False" for key in safe):
                        found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
            for name in names:
                if (
                    name in banned
                    or name in ("torch.load", "torch.save", "eval", "exec", "torch.hub.load")
                    or (
                        "distributed.checkpoint" in name or name in ("torch.load", "torch.jit.load")
                    )
                ):
                    found.append(f"{path.name}:{node.lineno}: {name}")
        if "pipe:" in path.read_text():
            found.append(f"{path.name}: a pipe: URL")
    assert found == []


# Names of models


def test_a_model_is_a_path_a_run_folder_or_a_shipped_name(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("T2I_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    shipped = {
        "b": tmp_path / "ship" / "b.safetensors",
        "icons": tmp_path / "ship" / "icons.safetensors",
    }
    monkeypatch.setattr(weights, "shipped_models", lambda: shipped)
    assert resolve_model(tiny) == tiny
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
        resolve_model(run)
    (run / "best.safetensors").write_bytes(b"")
    assert resolve_model(str(run)) == run / "best.safetensors"
    (run / "model.safetensors").write_bytes(b"")
    assert resolve_model(str(run)) == run / "model.safetensors"
    assert resolve_model("b") == shipped["b"]
    (tmp_path / "b").mkdir()
    assert resolve_model("b") == shipped["b"]  # a folder that holds no model does not hide a name
    assert resolve_model() == shipped["icons"]
    monkeypatch.setenv("T2I_MODEL", "b")
    assert resolve_model() == shipped["b"]
    assert resolve_model("icons") == shipped["icons"]
    shipped.pop("icons")
    monkeypatch.setenv("T2I_MODEL", "")
    assert resolve_model() == shipped["b"]
    with pytest.raises(WeightsError, match="no such model") as told:
        resolve_model("none")
    assert "b" in told.value.hint
    with pytest.raises(UsageError):
        resolve_model("hf:someone/model")
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(WeightsError):
            resolve_model(name)
    shipped.clear()
    with pytest.raises(WeightsError, match="no model is shipped"):
        resolve_model()
