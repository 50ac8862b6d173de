"""Reliability 21: what is unfinished is held while it is made, and removed by the next writer if theirs was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from t2i_cli import leftovers
from t2i_cli.checkpoint import write_atomic
from t2i_cli.leftovers import held_folder, hold, sweep
from t2i_cli.naming import write_new

WRITERS = {
    "write_atomic": "from t2i_cli.checkpoint import write_atomic as write\n",
    "write_new, new": "from t2i_cli.naming import write_new as write\n",
    "write_new, over": "from functools import partial\nfrom t2i_cli.naming import write_new\n"
    "write = partial(write_new, overwrite=True)\n",
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sweep_takes_what_nobody_holds_and_nothing_else(tmp_path: Path) -> None:
    for name in (".t2i-dead", ".t2i-held", "somebodys"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".t2i-folder").mkdir()
    (tmp_path / ".t2i-folder" / "x").write_bytes(b"x")
    (tmp_path / ".t2i-link").symlink_to(tmp_path / "somebodys")
    os.mkfifo(tmp_path / ".t2i-pipe")
    with (tmp_path / ".t2i-held").open("rb") as file:
        assert hold(file.fileno(), str(tmp_path / ".t2i-held"))
        swept = sweep(str(tmp_path), lambda name: name.startswith(".t2i-"))
    assert sorted(swept) == [".t2i-dead", ".t2i-folder"]
    assert names(tmp_path) == [".t2i-held", ".t2i-link", ".t2i-pipe", "somebodys"]
    assert sweep(str(tmp_path / "none"), lambda name: True) == []


def test_what_was_swept_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep between the making of a file and its lock costs nothing."""
    real, swept = leftovers.hold, 0

    def late(handle: int, path: str) -> bool:
        nonlocal swept
        if swept < 2:
            swept += 1
            place = Path(path)
            place.rmdir() if place.is_dir() else place.unlink()
        return real(handle, path)

    for module in ("leftovers", "naming", "checkpoint.files"):
        monkeypatch.setattr(f"t2i_cli.{module}.hold", late)
    write_atomic(tmp_path / "a", b"one")
    swept = 0
    write_new(str(tmp_path / "b"), b"two", overwrite=True)
    swept = 0
    taken = iter(("x", "y", "z"))
    path, handle = held_folder(lambda: str(tmp_path / next(taken)))
    os.close(handle)
    assert Path(path).name == "z"
    assert (tmp_path / "a").read_bytes() == b"one" and (tmp_path / "b").read_bytes() == b"two"
    assert names(tmp_path) == ["a", "b", "z"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_killed_in_the_middle(name: str, tmp_path: Path) -> None:
    """Killed with half of the file written; the next writer of the folder leaves the whole one alone."""
    strike = (
        "import os, signal, sys\n" + WRITERS[name] + "real = os.write\n"
        "def die(fd, data):\n real(fd, bytes(data[:10]))\n os.kill(os.getpid(), signal.SIGKILL)\n"
        "if sys.argv[2] == 'die':\n os.write = die\n os.fsync = lambda fd: die(fd, b'')\n"
        "write(sys.argv[1], b'x' * 100)\n"
    )
    root = str(Path(__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": root}
    for how, code in (("die", -9), ("live", 0)):
        command = [sys.executable, "-c", strike, str(tmp_path / "file"), how]
        assert subprocess.run(command, env=env).returncode == code
        if how == "die":
            assert not (tmp_path / "file").exists()
            if name == "write_new, new":
                assert names(tmp_path) == []  # it had no name yet
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"x" * 100
