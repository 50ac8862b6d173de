"""A run's state: what was saved comes back bit for bit, or is refused; the one before goes last."""

import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
import torch
from test_checkpoint_files import run_faults

from t2i_cli import checkpoint
from t2i_cli.checkpoint import load_state, save_state, saved_step
from t2i_cli.errors import OutputError, TrainingError, WeightsError


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path):
    generator = torch.Generator().manual_seed(3)
    bits = torch.randint(0, 256, (64,), generator=generator, dtype=torch.uint8)
    tensors = {
        "f64": torch.randn(3, dtype=torch.float64, generator=generator),
        "bf16": torch.randn(5, 2, generator=generator).bfloat16(),
        "negative zero and the smallest": torch.tensor([-0.0, 1e-45]),
        "flag": torch.tensor([True, False]),
        "step": torch.tensor(2**53 + 1),
        "bytes": bits,
        "nothing": torch.empty(0, 3),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    meta = {"float": 0.1 + 0.2, "big": 2**80, "text": "ü\x1b", "none": None, "list": [1, [2]]}
    path = save_state(tmp_path, 7, {"a": tensors, "b": {}}, meta)
    state = load_state(tmp_path)
    assert state is not None
    assert (state.step, state.meta, state.path, sorted(state.files)) == (7, meta, path, ["a", "b"])
    assert sorted(state.files["a"]) == sorted(tensors)
    for name, value in tensors.items():
        back = state.files["a"][name]
        assert (back.dtype, back.shape) == (value.dtype, value.shape)
        assert (
            back.contiguous().view(-1).view(torch.uint8).tolist()
            == value.contiguous().view(-1).view(torch.uint8).tolist()
        )
    assert state.files["a"]["channels last"].stride() == tensors["channels last"].stride()


def test_none_saved_is_none(tmp_path: Path):
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "missing") is None


def test_the_newest_is_kept_alone_whatever_its_step(tmp_path: Path):
    for step in (5, 9, 9, 3):  # it went back to step 3 after trouble
        save_state(tmp_path, step, faults.tensors_at(step), {})
        state = load_state(tmp_path)
        assert state is not None
        assert state.step == step
        assert len(list((tmp_path / "state").iterdir())) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_never_reach_a_checkpoint(tmp_path: Path, bad: float):
    save_state(tmp_path, 1, faults.tensors_at(1), {})
    with pytest.raises(TrainingError, match=r"tensor x holds NaN or infinity"):
        save_state(tmp_path, 2, {"g": {"x": torch.tensor([0.0, bad])}}, {})
    wild = faults.tiny_states()
    next(iter(wild["generator"].values())).view(-1)[0] = 3.4e38
    with pytest.raises(TrainingError, match="NaN or infinity"):
        checkpoint.save_model(
            tmp_path / "m.safetensors",
            wild,
            faults.tiny_config(),
            b"",
        )  # finite in float32, infinite in bfloat16
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_a_reader_beside_a_trainer_gets_the_old_or_the_new(tmp_path: Path):
    stop = threading.Event()

    def trainer() -> None:
        for step in range(1, 100_000):
            save_state(tmp_path, step, faults.tensors_at(step), {})
            if stop.is_set():
                return

    thread = threading.Thread(target=trainer)
    thread.start()
    try:
        last, begun = 0, time.monotonic()
        while last < 8 and time.monotonic() - begun < 10:
            state = load_state(tmp_path)
            step = saved_step(tmp_path)
            if state is not None and step is not None:
                assert torch.equal(
                    state.files["networks"]["w"], faults.tensors_at(state.step)["networks"]["w"]
                )
                assert last <= state.step <= step
                last = state.step
    finally:
        stop.set()
        thread.join()
    assert last > 0


def test_a_group_that_is_no_file_name_is_refused(tmp_path: Path):
    for group in ("../up", "a/b", "", "ü"):
        with pytest.raises(ValueError, match="state"):
            save_state(tmp_path, 1, {group: {}}, {})


def test_cut_flipped_missing_or_swapped_files_are_refused_by_name(tmp_path: Path):
    folder = save_state(tmp_path, 1, faults.tensors_at(1), {"k": 1})
    chance = random.Random(5)
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == [
        "manifest.json", "meta.json", "networks.safetensors", "optimizer.safetensors",
    ]  # fmt: skip
    for path in files:
        whole = path.read_bytes()
        damaged = [whole[: chance.randrange(len(whole))] for _ in range(20)] + [b"", whole + b"\0"]
        for _ in range(60):
            flipped = bytearray(whole)
            flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            damaged.append(bytes(flipped))
        for data in damaged:
            path.write_bytes(data)
            with pytest.raises(WeightsError) as told:
                load_state(tmp_path)
            assert str(folder) in str(told.value)
            assert "\n" not in str(told.value)
            assert told.value.exit_code == 3
        path.unlink()
        with pytest.raises(WeightsError, match=path.name):
            load_state(tmp_path)
        path.write_bytes(whole)
    assert load_state(tmp_path) is not None
    (folder / "networks.safetensors").write_bytes((folder / "optimizer.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"networks\.safetensors"):
        load_state(tmp_path)


def test_a_manifest_of_our_making_cannot_lead_outside(tmp_path: Path):
    from t2i_cli.checkpoint.state import _sealed

    folder = save_state(tmp_path, 1, faults.tensors_at(1), {})
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest.pop("sha256")
    good = manifest["files"]
    for files in (
        {**good, "../../x": good["meta.json"]},
        {},
        [],
        {"meta.json": 3},
        {"meta.json": {"size": 1}},
    ):
        (folder / "manifest.json").write_bytes(_sealed({**manifest, "files": files}))
        with pytest.raises(WeightsError, match=r"manifest\.json"):
            load_state(tmp_path)


def test_every_file_is_on_the_disk_before_the_name_and_the_old_goes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_state(tmp_path, 1, faults.tensors_at(1), {})
    happened: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.rename

    def fsync(handle):
        happened.append(("sync", os.path.realpath(f"/proc/self/fd/{handle}")))
        sync(handle)

    def note(old, new, **more):
        happened.append(("rename", os.fspath(new)))
        rename(old, new, **more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", note)
    final = save_state(tmp_path, 2, faults.tensors_at(2), {})
    at = happened.index(("rename", str(final)))
    files = [
        path for kind, path in happened[:at] if kind == "sync" and Path(path).name.startswith(".")
    ]
    synced = [path.name.split(".")[1] for path in map(Path, files) if path.parent.name != "state"]
    assert synced == ["networks", "optimizer", "meta", "manifest"]  # the manifest last
    assert happened[at + 1] == ("sync", str(tmp_path / "state"))
    assert happened[-1][0] == "rename"
    assert Path(happened[-1][1]).name.startswith(".00000001.")  # and only then the one before goes


def test_the_old_state_stays_when_the_new_one_cannot_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_state(tmp_path, 1, faults.tensors_at(1), {})
    from t2i_cli.checkpoint import state

    real = state.sync_folder

    def rot(folder):  # a disk that loses a bit as soon as it has been given it
        real(folder)
        for path in folder.glob("00000002/networks.safetensors"):
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(state, "sync_folder", rot)
    with pytest.raises(OutputError, match="could not be read back"):
        save_state(tmp_path, 2, faults.tensors_at(2), {})
    back = load_state(tmp_path)
    assert back is not None
    assert back.step == 1


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a kill spares what the system has been given."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="t2i-test-") as folder:
        yield Path(folder)


def test_a_kill_before_or_after_a_call_of_a_save_leaves_the_old_or_the_new(in_memory: Path):
    told = run_faults("each", in_memory, 9)
    assert told["failures"] == []
    assert told["cases"] > 15
    assert told["steps seen"] == [2, 3]


def test_kills_at_random_lose_at_most_one_save_and_leave_no_orphan(in_memory: Path):
    told = run_faults("random", in_memory, 12, 11)
    assert told["failures"] == []
    assert told["last step"] > 2
