"""Reliability 19 to 23 in full: sockets, files elsewhere, nodes replaced, bytes left behind, own files read as data."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import data, png
from t2i_cli.data.splits import split_record, unseen
from t2i_cli.sample import load
from tests.guard import CAN_GUARD, run_guarded
from tests.kills import kill_sampling
from tests.slow.summary import SEED, count, share
from tests.test_private import COMMANDS, world  # noqa: F401 - a fixture
from tests.toy_weights import save_toy

pytestmark = pytest.mark.slow
T2I = [sys.executable, "-m", "t2i_cli"]


@pytest.mark.skipif(not CAN_GUARD, reason="the guard is for Linux on x86-64 and ARM")
def test_19_no_socket_and_no_file_elsewhere(world: Path) -> None:  # noqa: F811
    begun, failures, chance = time.monotonic(), list[str](), random.Random(SEED)
    cases = 0
    for _ in range(share(3)):
        names = list(COMMANDS)
        chance.shuffle(names)
        names.sort(key=lambda name: name in ("train --resume", "info"))  # after what they look at
        for path in ("run", "onnx", "r.html", "made.model"):
            target = world / "here" / path
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        for name in names:
            cases += 1
            arguments = COMMANDS[name]
            if arguments[0] == "sample":
                arguments = (*arguments, "-f")
            if name == "sample --vary":
                arguments = tuple(
                    "data/red-ball-0.png" if x == "cold.png" else x for x in arguments
                )
            if name == "info" and not (world / "here" / "run").exists():
                continue
            found = run_guarded(world, arguments)
            if found.sockets or found.outside or found.left or found.done.returncode:
                failures.append(f"{name}: {found}")
    count("19: sockets opened, files elsewhere or left", cases, failures, begun)


def nodes(place: Path) -> dict[str, Path]:
    """One of each thing that is no regular file."""
    place.mkdir()
    found = {name: place / name for name in ("pipe", "null", "disk", "socket", "link", "to null")}
    found |= {
        "to pipe": place / "to pipe",
        "folder": place / "folder",
        "nowhere": place / "nowhere",
    }
    os.mkfifo(found["pipe"])
    found["folder"].mkdir()
    (place / "real").write_bytes(b"old")
    found["link"].symlink_to("real")
    found["to pipe"].symlink_to("pipe")
    found["nowhere"].symlink_to("made")
    try:
        os.mknod(found["null"], 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(found["disk"], 0o666 | stat.S_IFBLK, os.makedev(259, 12345))
        found["to null"].symlink_to("null")
    except OSError:  # not for everybody
        for name in ("null", "disk", "to null"):
            del found[name]
    with socket.socket(socket.AF_UNIX) as one:
        before = Path.cwd()
        os.chdir(place)
        one.bind("socket")
        os.chdir(before)
    return found


def test_20_no_node_is_replaced(tmp_path: Path) -> None:
    begun, failures, cases = time.monotonic(), list[str](), 0
    weights = save_toy(tmp_path / "toy.safetensors")
    load(weights, "cpu")
    (tmp_path / "texts.txt").write_text("a red ball\na blue bar\n" * 20)
    picture = tmp_path / "picture.png"
    model = ("-m", str(weights))
    assert subprocess.run([*T2I, "sample", "ball", *model, "-o", str(picture)]).returncode == 0
    data_ = tmp_path / "data"
    data_.mkdir()
    for k in range(12):
        (data_ / f"{k}.png").write_bytes(png.encode(np.full((64, 64, 4), 20 * k, np.uint8)))
        (data_ / f"{k}.txt").write_text(f"a thing {k}")
    commands = {
        "sample": ("sample", "ball", *model, "--format", "png", "-o"),
        "sample --grid": ("sample", "ball", "-n", "2", "--grid", *model, "-o"),
        "tokenize": ("tokenize", "--train", str(tmp_path / "texts.txt"), "-o"),
        "eval": ("eval", str(weights), str(data_), "--metrics", "kid", "-n", "10", "--report"),
    }  # fmt: skip
    for (name, command), number in itertools.product(commands.items(), range(share(2))):
        place = tmp_path / f"{name} {number}"
        found = nodes(place)
        for kind, path in found.items():
            if kind == "folder" and name == "sample":
                continue  # pictures go inside
            before = path.lstat()
            reader = None
            if "pipe" in kind:
                reader = subprocess.Popen(["cat", str(place / "pipe")], stdout=subprocess.DEVNULL)
            line = [*T2I, *command, str(path), "-f"]
            done = subprocess.run(line, capture_output=True, text=True, timeout=300)
            if reader is not None:
                reader.wait(30)
            cases += 1
            after = path.lstat()
            same = (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
            refused = kind in ("disk", "socket", "folder")
            if not same or (done.returncode == 0) == refused or "Traceback" in done.stderr:
                failures.append(f"{name} to a {kind}: exit {done.returncode}: {done.stderr[-200:]}")
    count("20: nodes replaced", cases, failures, begun)


def test_21_no_byte_is_left_behind(tmp_path: Path) -> None:
    begun = time.monotonic()
    weights = save_toy(tmp_path / "toy.safetensors")
    load(weights, "cpu")
    killed, left = kill_sampling(weights, tmp_path, share(1000), SEED)
    count("21: files left after a kill and the next start", killed, left, begun)


def test_23_what_was_trained_on_is_never_held_out() -> None:
    """Random splits of random data that grows, shrinks and is shared: no training picture is called unseen."""
    begun, failures, draw = time.monotonic(), list[str](), np.random.RandomState(SEED % 2**32)
    cases = share(2000)
    for case in range(cases):
        names = [f"{draw.randint(2**31):064x}" for _ in range(draw.randint(20, 400))]

        def of(hashes: list[str]) -> data.CaptionedImages:
            count_ = len(hashes)
            return data.CaptionedImages(
                np.zeros((count_, 1, 1, 3), np.uint8), [["a"]] * count_, hashes, [""] * count_,
                [{}] * count_, hashes, str(hash(tuple(hashes))), data.DataReport("x", "y", 1, 1, 1),
            )  # fmt: skip

        records, trained = [], set[str]()
        for _ in range(draw.randint(1, 4)):
            some = of(list(draw.choice(names, draw.randint(10, len(names)), replace=False)))
            val, seed = float(draw.uniform(0, 0.5)), int(draw.randint(2**31))
            trained |= {some.hashes[row] for row in some.split(val, seed)[0]}
            records.append(split_record(some, val, seed))
        rows = unseen(of(names), records)
        if rows is not None and trained & {names[row] for row in np.flatnonzero(rows)}:
            failures.append(f"case {case}")
    count("23: training pictures that are called unseen", cases, failures, begun)
