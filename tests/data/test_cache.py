"""The packed cache: whole or not at all, verified, and safe for several builders."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from t2i_cli.data import cache
from t2i_cli.errors import DataError, OutputError
from t2i_cli.leftovers import hold

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 4), np.uint8)


def fill(file):
    file.write(PIXELS.tobytes())
    return PIXELS.shape, {"captions": [["a \x1b猫"]]}


def build(folder: Path, key: str = "k") -> cache.Entry:
    return cache.write_entry(folder, key, fill)


def test_round_trip(tmp_path: Path):
    assert cache.open_entry(tmp_path, "k") is None
    for entry in (build(tmp_path), cache.open_entry(tmp_path, "k")):
        assert entry is not None
        assert (entry.pixels == PIXELS).all()
        assert isinstance(entry.pixels, np.memmap)
        assert not entry.pixels.flags.writeable
        assert entry.index == {"captions": [["a \x1b猫"]]}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["k"]


@pytest.mark.parametrize("name", ["pixels.bin", "index.json"])
def test_any_flip_or_cut_is_found_and_built_again(tmp_path: Path, name):
    build(tmp_path)
    file = tmp_path / "data" / "k" / name
    whole = file.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << (at % 8)
        file.write_bytes(flipped)
        assert cache.open_entry(tmp_path, "k") is None, at
        file.write_bytes(whole[:at])
        assert cache.open_entry(tmp_path, "k") is None, at
    assert (build(tmp_path).pixels == PIXELS).all()
    assert cache.open_entry(tmp_path, "k") is not None
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["k"]


def test_a_failure_leaves_nothing(tmp_path: Path):
    def fails(file):
        file.write(b"half")
        raise DataError("no")

    with pytest.raises(DataError):
        cache.write_entry(tmp_path, "k", fails)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cache of decoded pictures cannot be written") as caught:
        build(tmp_path / "file")
    assert "T2I_CACHE" in caught.value.hint


def test_a_full_disk(tmp_path: Path):
    def fails(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        cache.write_entry(tmp_path, "k", fails)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_file_that_may_not_grow(tmp_path: Path):
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from t2i_cli.data import cache; from t2i_cli.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "def fill(file):\n file.write(bytes(1_000_000)); return (1, 1000, 1000, 1), {}\n"
        "try: cache.write_entry(Path(sys.argv[1]), 'k', fill)\n"
        "except OutputError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in done.stdout
    assert list((tmp_path / "data").iterdir()) == []


def _kill_builders(folder: Path, kills: int, rng: np.random.Generator) -> None:
    """Kill a process that builds entries at random moments; what is there must always open whole."""
    script = (
        "import sys; from pathlib import Path; from t2i_cli.data import cache\n"
        "def fill(file):\n [file.write(bytes([7]) * 4096) for _ in range(64)]; return (64, 32, 32, 4), {'a': 'b'}\n"
        "print('ready', flush=True)\n"
        "for n in range(10**6): cache.write_entry(Path(sys.argv[1]), f'k{n % 7}-{sys.argv[2]}', fill)"
    )
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", script, folder, str(kill)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        process.stdout.close()
        for path in (folder / "data").glob("k*"):
            entry = cache.open_entry(folder, path.name)
            assert entry is not None, (kill, path.name)
            assert (entry.pixels == 7).all()
            shutil.rmtree(path)


def test_killed_builders_leave_whole_entries_or_none(tmp_path: Path):
    _kill_builders(tmp_path, 5, np.random.default_rng(0))


@pytest.mark.slow
def test_killed_builders_many_times(tmp_path: Path):
    _kill_builders(tmp_path, 500, np.random.default_rng(1))


def _build_many(folder: str, start: float, failures) -> None:
    while time.time() < start:
        pass
    for number in range(20):
        entry = build(Path(folder), f"k{number}")
        if not (entry.pixels == PIXELS).all():
            failures.put(number)


def test_builders_at_once(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    start = time.time() + 1.0
    processes = [
        context.Process(target=_build_many, args=(str(tmp_path), start, failures)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert failures.empty()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(
        f"k{number}" for number in range(20)
    )


def test_a_dead_builders_folder_is_removed_at_once_and_a_living_ones_kept(tmp_path: Path):
    for name in ("building-dead", "building-alive"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "pixels.bin").write_bytes(b"x")
    handle = os.open(tmp_path / "data" / "building-alive", os.O_RDONLY)
    assert hold(handle, str(tmp_path / "data" / "building-alive"))
    build(tmp_path)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"k", "building-alive"}
    os.close(handle)  # its process is gone
    build(tmp_path, "other")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"k", "other"}


def test_where_it_lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache.cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("T2I_CACHE", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere")
    monkeypatch.delenv("T2I_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.cache_folder() == Path("/xdg/t2i")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "t2i"
