"""Reliability 22: what t2i wrote is never read as training data, and is counted."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import data, images, metadata, png
from t2i_cli.check import check
from t2i_cli.data import scan
from t2i_cli.metadata import Recipe
from tests.conftest import Cli

PIXELS = np.full((64, 64, 4), 90, np.uint8)


def drawn(kind: str, *, keep: bool = True, prompt: str = "a cat") -> bytes:
    """A picture as `t2i sample` writes it, with its recipe or without."""
    recipe = Recipe(prompt, 7, version="0.1.0", format=kind)
    text = metadata.to_text(recipe, 64, 64) if keep else {}
    xmp = metadata.xmp(recipe if keep else None)
    if kind == "png":
        return png.encode(PIXELS, text, xmp)
    if kind == "gif":
        frames = [PIXELS, 255 - PIXELS]
        return images.encode_animation(frames, "gif", milliseconds=60, text=text)
    pixels = PIXELS if kind == "webp" else PIXELS[..., :3]
    return images.encode(pixels, kind, text=text, xmp=xmp)  # type: ignore[arg-type]


@pytest.fixture
def folder(captioned_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(captioned_folder, tmp_path / "data")
    return tmp_path / "data"


def own_of(path: Path) -> tuple[str, ...]:
    return next((one.items for one in scan(path).problems if one.kind == "own"), ())


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", ["png", "webp", "jpg", "gif"])
def test_a_picture_that_t2i_drew_is_left_out_and_counted(
    kind: str, keep: bool, folder: Path
) -> None:
    if kind == "gif" and not keep:
        pytest.skip("a GIF without its recipe says nothing of itself")
    before = data.load(folder, 32).digest
    (folder / f"mine.{kind}").write_bytes(drawn(kind, keep=keep))
    (folder / "mine.txt").write_text("a cat")
    assert own_of(folder) == (f"mine.{kind}",)
    report = check(folder)
    assert report.data.pairs == 24 and report.exit_code == 0
    assert any(
        f"1 thing that t2i wrote is left out (mine.{kind})" in x.message for x in report.lines
    )
    loaded = data.load(folder, 32)
    assert f"mine.{kind}" not in loaded.names
    assert [one.count for one in loaded.report.problems if one.kind == "own"] == [1]
    (folder / "mine.txt").unlink()
    assert data.load(folder, 32).digest == before


def test_a_long_prompt_or_a_large_picture_does_not_hide_it(folder: Path) -> None:
    (folder / "long.png").write_bytes(drawn("png", prompt="a cat " * 10_000))
    noise = np.random.RandomState(0).randint(0, 256, (700, 700, 3)).astype(np.uint8)
    (folder / "large.webp").write_bytes(images.encode(noise, "webp", xmp=metadata.xmp()))
    assert (folder / "large.webp").stat().st_size > 1 << 19
    assert own_of(folder) == ("large.webp", "long.png")


def test_pictures_of_others_that_say_they_are_generated_are_data(folder: Path) -> None:
    other = metadata.xmp().replace('xmlns:xmp="http://ns.adobe.com/xap/1.0/" ', "")
    (folder / "theirs.png").write_bytes(png.encode(PIXELS, {"parameters": "a cat"}, other))
    (folder / "theirs.txt").write_text("a cat")
    assert own_of(folder) == ()
    assert scan(folder).pairs == 25


def test_rows_that_name_drawn_pictures_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, str]] = []
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(
            drawn("png") if k < 2 else png.encode(PIXELS + np.uint8(k))
        )
        rows.append({"file_name": f"{k}.png", "text": "a cat"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = scan(tmp_path)
    assert [record.name for record in found.records] == ["2.png", "3.png"]
    assert found.ok and own_of(tmp_path) == ("0.png", "1.png")


def test_members_of_a_shard_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for name, content in (
            ("mine.png", drawn("png")),
            ("mine.txt", b"a cat"),
            ("theirs.png", png.encode(PIXELS)),
            ("theirs.txt", b"a cat"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    found = scan(tmp_path)
    assert [record.name for record in found.records] == ["a.tar/theirs.png"]
    assert [one.items for one in found.problems] == [("a.tar/mine.png: t2i drew it",)]


def test_runs_caches_and_exports_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = data.load(folder, 32).digest
    run = folder / "runs" / "one"
    (run / "samples").mkdir(parents=True)
    (run / "samples" / "00000008.png").write_bytes(png.encode(PIXELS))
    for name in ("config.toml", "log.jsonl", "words.txt", "tokenizer.model", "data.json"):
        (run / name).write_text("{}")
    for place, names in {
        "cache/data/0123": ("pixels.bin", "index.json", "a.png"),
        "cache/ready/0123": ("about.json", "tokenizer.model", "words.txt"),
        "toy-onnx": ("config.json", "tokenizer.model", "words.txt", "generator.onnx"),
        "my cache": ("x.png", "x.txt"),
    }.items():
        (folder / place).mkdir(parents=True)
        for name in names:
            (folder / place / name).write_bytes(png.encode(PIXELS) if name == "x.png" else b"x")
    with monkeypatch.context() as patch:
        patch.setenv("T2I_CACHE", str(folder / "my cache"))
        assert own_of(folder) == (
            "cache/data/0123/",
            "cache/ready/0123/",
            "my cache/",
            "runs/one/",
            "toy-onnx/",
        )
        assert scan(folder).pairs == 24
    shutil.rmtree(folder / "my cache")
    assert data.load(folder, 32).digest == before


def test_a_run_in_the_data_folder_itself(folder: Path) -> None:
    before = data.load(folder, 32).digest
    (folder / "samples").mkdir()
    (folder / "samples" / "1.png").write_bytes(png.encode(PIXELS))
    for name in ("config.toml", "log.jsonl", "words.txt", "data.json"):
        (folder / name).write_text("{}")
    assert own_of(folder) == ("data.json", "log.jsonl", "samples", "words.txt")
    assert data.load(folder, 32).digest == before


def test_a_folder_of_anybody_else_is_data(folder: Path) -> None:
    (folder / "config.toml").write_text("x = 1")  # of another tool
    (folder / "samples").mkdir()
    shutil.copy(folder / "red-ball-0.png", folder / "samples" / "x.png")
    (folder / "samples" / "x.txt").write_text("a ball")
    assert own_of(folder) == ()
    assert scan(folder).pairs == 25


def test_training_inside_the_data_is_resumed_to_its_end(
    folder: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd pictures; until t2i train . --resume; do :; done` ends, though it is stopped on its way."""
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    line = ("train", ".", "--resume", "--steps", "8", "--resolution", "32", "--batch-size", "4")
    stop = (
        "import t2i_cli.training.loop as loop, sys\nfrom t2i_cli.cli import run\n"
        "save = loop.save\n"
        "def save_and_stop(r):\n    yield from save(r)\n    r.settings.stop.signum = 15\n"
        "loop.save = save_and_stop\nsys.exit(run(sys.argv[1:]))\n"
    )
    root = str(Path(__file__).parent.parent.parent)
    stopped = subprocess.run(
        [sys.executable, "-c", stop, *line], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root, "T2I_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert stopped.returncode == 143, stopped.stderr
    samples = folder / "runs" / "data" / "samples"
    samples.mkdir(exist_ok=True)
    (samples / "1.png").write_bytes(png.encode(PIXELS))  # as a later look leaves it
    # the graph of a run that was stopped is at hand, as that of the shipped model is
    sampled = cli("sample", "a red ball", "-m", folder / "runs/data", cwd=folder)
    assert sampled.returncode == 0
    assert "making this model's graph" in stopped.stderr
    assert "making" not in sampled.stderr
    codes: list[int] = []
    while not codes or codes[-1]:
        assert len(codes) < 5
        done = cli(*line, cwd=folder)
        codes.append(done.returncode)
    assert codes == [0], done.stderr
    assert "2 things that t2i wrote are left out" in done.stderr
    again = cli("check", ".", cwd=folder)
    assert again.returncode == 0
    assert "24 pairs" in again.stdout
