"""Reliability 20: what is not a regular file is never replaced, whichever command writes and whatever it was told."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from t2i_cli.checkpoint import write_atomic
from t2i_cli.errors import OutputError
from t2i_cli.export import export_onnx
from t2i_cli.naming import write_new
from tests.conftest import Cli
from tests.toy_weights import save_toy

WRITERS: dict[str, Callable[[Path, bytes], object]] = {
    "write_atomic": write_atomic,
    "write_new": lambda path, data: write_new(str(path), data, overwrite=True),
}


def read_in_background(path: Path) -> tuple[list[bytes], threading.Thread]:
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(path.read_bytes()), daemon=True)
    thread.start()
    return found, thread


@pytest.mark.parametrize("name", WRITERS)
def test_a_pipe_is_written_into(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        found, thread = read_in_background(path)
        WRITERS[name](path, b"x" * 200_000)
        thread.join(30)
        assert found == [b"x" * 200_000]
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", WRITERS)
def test_a_device_is_written_into(name: str, tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        pytest.skip("no device can be made here")
    (tmp_path / "link").symlink_to(device)
    for path in (device, tmp_path / "link"):
        WRITERS[name](path, b"new")
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", WRITERS)
def test_a_socket_a_folder_and_a_disk_are_refused(name: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(tmp_path)  # the name of a socket is short
        try:
            one.bind("socket")
        finally:
            os.chdir(here)
        (tmp_path / "folder").mkdir()
        kinds = ["socket", "folder"]
        try:
            os.mknod(tmp_path / "disk", 0o666 | stat.S_IFBLK, os.makedev(259, 12345))
            kinds.append("disk")
        except OSError:
            pass  # not for everybody
        for kind in kinds:
            before = (tmp_path / kind).lstat()
            with pytest.raises(OutputError, match=f"it is a {kind}"):
                WRITERS[name](tmp_path / kind, b"new")
            assert (tmp_path / kind).lstat().st_mode == before.st_mode
            assert (tmp_path / kind).lstat().st_ino == before.st_ino
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kinds)


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "a ball", "-f", "-o"),
        ("sample", "a ball", "-n", "2", "--grid", "-f", "-o"),
        ("sample", "a ball", "--morph", "a bar", "--frames", "2", "-f", "-o"),
        ("tokenize", "--train", "texts.txt", "-f", "-o"),
    ],
    ids=["sample", "grid", "morph", "tokenizer"],
)
def test_a_command_writes_into_pipes_and_links(
    command: tuple[str, ...], cli: Cli, tmp_path: Path
) -> None:
    name = "out.gif" if "--morph" in command else "out.png" if "sample" in command else "out.model"
    (tmp_path / "texts.txt").write_text("a red ball\na blue bar\n" * 20)
    pipe, link, real = tmp_path / name, tmp_path / f"link-{name}", tmp_path / f"real-{name}"
    os.mkfifo(pipe)
    link.symlink_to(real)
    found, thread = read_in_background(pipe)
    for path in (pipe, link):
        done = cli(*command, path.name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    thread.join(30)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert link.is_symlink()
    assert found and found[0] == real.read_bytes()


def test_export_replaces_no_link_in_its_folder(tmp_path: Path) -> None:
    weights = save_toy(tmp_path / "toy.safetensors")
    out = tmp_path / "onnx"
    out.mkdir()
    (out / "generator.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    export_onnx(weights, out, overwrite=True)
    assert (out / "generator.onnx").is_symlink()
    assert (tmp_path / "elsewhere.onnx").stat().st_size > 1000
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
