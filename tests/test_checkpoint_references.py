"""References in a weights file: what was saved comes back; what a stranger forged is refused in one line, exit 3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faults
import numpy as np
import pytest

from t2i_cli.checkpoint import load_model, read_info
from t2i_cli.checkpoint.safetensors_file import DTYPES, data_digest, header_bytes
from t2i_cli.errors import WeightsError
from t2i_cli.references import ReferenceStore

Kinds = dict[str, tuple[str, tuple[int, ...]]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    faults.save_tiny(path, 1)
    return path


def size_of(kind: tuple[str, tuple[int, ...]]) -> int:
    """Bytes of a tensor of a type and a shape."""
    count = 1
    for side in kind[1]:
        count *= side
    return DTYPES[kind[0]] * count


def forged(
    path: Path, source: Path, changes: dict[str, tuple[str, tuple[int, ...]] | None]
) -> Path:
    """The file with other tensors of these names, zeros, or without them (None); its digests hold."""
    from t2i_cli.checkpoint.safetensors_file import layout

    info, whole = read_info(source), source.read_bytes()
    kinds: Kinds = {name: (item.dtype, item.shape) for name, item in info.tensors.items()}
    for name, kind in changes.items():
        kinds.pop(name, None)
        if kind is not None:
            kinds[name] = kind
    body = bytearray()
    for name in layout(kinds):
        if name in changes:
            body += bytes(size_of(kinds[name]))
        else:
            place = info.tensors[name]
            start = info.header.data_start
            body += whole[start + place.start : start + place.end]
    start, _ = header_bytes(kinds, info.metadata, data_digest([bytes(body)]))
    path.write_bytes(start + body)
    return path


def refused(path: Path, read: Callable[[Path], object] = load_model) -> str:
    with pytest.raises(WeightsError) as told:
        read(path)
    text = str(told.value)
    assert str(path) in text and text.isprintable()
    assert told.value.exit_code == 3
    return text


def test_references_come_back(tiny: Path, tmp_path: Path):
    saved, found = faults.tiny_store(), load_model(tiny).references
    for name, values in saved.arrays().items():
        assert np.array_equal(found.arrays()[name], values), name
        assert found.arrays()[name].dtype == values.dtype, name
    assert read_info(tiny).metadata["t2i.references"] == "5"
    faults.save_tiny(tmp_path / "none.safetensors", 1, references=None)
    assert len(load_model(tmp_path / "none.safetensors").references) == 0
    assert read_info(tmp_path / "none.safetensors").metadata["t2i.references"] == "0"


def test_a_model_with_other_references_is_another_model(tiny: Path, tmp_path: Path):
    other = faults.save_tiny(tmp_path / "x.safetensors", 1, references=faults.tiny_store(4))
    assert other != read_info(tiny).hash


def test_a_forged_file_that_is_sound_loads(tiny: Path, tmp_path: Path):
    load_model(
        forged(tmp_path / "x.safetensors", tiny, {"references.latents": ("I8", (5, 2, 4, 4))})
    )


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("latents", None, "references.latents is not that of its config"),
        ("latents", ("U8", (5, 2, 4, 4)), "references.latents is not"),  # a type
        ("latents", ("F32", (5, 2, 4, 4)), "references.latents is not"),
        ("keys", ("I16", (5, 8)), "references.keys is not"),
        ("latents", ("I8", (5, 3, 4, 4)), "references.latents is not"),  # a shape
        ("latents", ("I8", (5, 2, 4, 5)), "references.latents is not"),
        ("latents", ("I8", ()), "references.latents is not"),
        ("keys", ("I8", (5, 9)), "references.keys is not"),
        ("attributes", ("I16", (5, 2)), "references.attributes is not"),
        ("attributes", ("I16", (5,)), "references.attributes is not"),
        ("sources", ("I32", (5, 1)), "references.sources is not"),
        ("sources", ("I64", (5,)), "references.sources is not"),
        ("latents", ("I8", (6, 2, 4, 4)), "not as many everywhere"),  # a count
        ("keys", ("I8", (4, 8)), "not as many everywhere"),
        ("sources", ("I32", (0,)), "not as many everywhere"),
        ("sources", ("I32", ()), "not as many everywhere"),
        ("more", ("I8", (5,)), "no tensor of references"),
        ("../../x\x1b[31m", ("I8", (5,)), "no tensor of references"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_the_configs_are_refused(
    tiny: Path, tmp_path: Path, name: str, kind: tuple[str, tuple[int, ...]] | None, why: str
):
    path = forged(tmp_path / "x.safetensors", tiny, {f"references.{name}": kind})
    assert why in refused(path)
    assert why in refused(path, read_info)


def test_too_many_pictures_are_refused_before_they_are_read(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("t2i_cli.checkpoint.weights.MAX_REFERENCES", 4)
    assert "at most 4" in refused(tiny, read_info)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [("attributes", 3, "unknown style"), ("attributes", -1, "unknown style"), ("sources", -1, "no number")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(tmp_path: Path, column: str, value: int, why: str):
    arrays = {name: values.copy() for name, values in faults.tiny_store().arrays().items()}
    arrays[column][2] = value
    path = tmp_path / "x.safetensors"
    faults.save_tiny(path, 1, references=ReferenceStore.from_arrays(arrays))
    assert why in refused(path)
