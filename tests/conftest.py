"""What every test may use: a command line in a process of its own, a tiny data set, one thread, no shared cache."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _raise_loopback() -> None:
    """Turn the loopback on where it is off, as in `unshare -rn`: processes that train together talk through it."""
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            asked = struct.pack("16sh14x", b"lo", 0)
            get_flags, set_flags, up = 0x8913, 0x8914, 1
            name, flags = struct.unpack("16sh14x", fcntl.ioctl(one, get_flags, asked))
            if not flags & up:
                fcntl.ioctl(one, set_flags, struct.pack("16sh14x", name, flags | up))
    except (ImportError, OSError):  # not Linux, or not ours to turn on
        pass


_raise_loopback()

COLOURS = {
    "red": (220, 40, 30),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
}
SHAPES = ("square", "ball", "bar")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _own_world(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No test reads the user's cache, model, or colours."""
    for name in [*os.environ]:
        if name.startswith("T2I_") or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("T2I_CACHE", str(tmp_path_factory.getbasetemp() / "t2i-cache"))
    yield


@pytest.fixture
def cli() -> Cli:
    """``cli("check", folder)`` runs t2i in a process of its own; stdin is empty unless ``input=`` is given."""

    def run(
        *arguments: object,
        input: str = "",
        timeout: float = 120,
        cwd: Path | None = None,
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "t2i_cli", *map(str, arguments)],
            input=input,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **env},
        )

    return run


def shape_pixels(shape: str, colour: str, side: int = 64, offset: int = 0) -> np.ndarray:
    """A simple drawing on a transparent ground, uint8 (side, side, 4)."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5 - offset
    inside = {
        "square": (abs(x) < side / 4) & (abs(y) < side / 4),
        "ball": x**2 + y**2 < (side / 3) ** 2,
        "bar": (abs(x) < side / 2.5) & (abs(y) < side / 8),
    }[shape]
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[inside] = (*COLOURS[colour], 255)
    return pixels


@pytest.fixture(scope="session")
def captioned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four 64 px RGBA drawings, ``red-ball-0.png`` with ``red-ball-0.txt`` beside it. Read only."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("captioned")
    for colour in COLOURS:
        for shape in SHAPES:
            for k in range(2):
                name = f"{colour}-{shape}-{k}"
                Image.fromarray(shape_pixels(shape, colour, offset=3 * k)).save(
                    folder / f"{name}.png"
                )
                (folder / f"{name}.txt").write_text(
                    f"a {colour} {shape}\n{shape} in {colour}\n", encoding="utf-8"
                )
    return folder


@pytest.fixture(scope="module")
def small_runs() -> Iterator[None]:
    """Training runs of a file are a few steps of networks as small as they can be."""
    from tests.toy_runs import make_small

    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of captioned toys to train on. Read only."""
    from tests.toy_runs import toy_folder

    return toy_folder(tmp_path_factory.mktemp("toys") / "data")
