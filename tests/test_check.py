"""What `t2i check` says, as lines and as plain data, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import images
from t2i_cli.check import Line, check
from t2i_cli.data.report import FAULTS, DataReport, Problem

ICONS = Path(__file__).parent.parent / "examples" / "icons"


def write(folder: Path, name: str, caption: str | None, seed: int = 0, side: int = 64) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    (folder / f"{name}.png").write_bytes(images.encode(pixels))
    if caption is not None:
        (folder / f"{name}.txt").write_text(caption)


def test_a_good_set_ends_with_the_next_command(tmp_path):
    write(tmp_path, "a", "a red cat\na cat")
    asked: list[DataReport] = []

    def estimate(report: DataReport) -> str:
        asked.append(report)
        return "about 25 min"

    report = check(tmp_path, estimate=estimate)
    assert report.ok
    assert report.exit_code == 0
    assert report.lines == (
        Line("", "images with a caption file each"),
        Line("✓", "1 pair, 2 captions, 3 words", f"t2i train {tmp_path}: about 25 min"),
    )
    assert asked == [report.data]


def test_errors_and_warnings_in_the_order_of_the_manual(tmp_path):
    for index in range(3):
        write(tmp_path, f"{index}", None, index)
    write(tmp_path, "small", "small", 7, side=8)
    write(tmp_path, "again", "again", 7, side=8)
    report = check(
        tmp_path, estimate=lambda _: pytest.fail("not for data that cannot be trained on")
    )
    assert report.exit_code == 3
    assert report.lines[1:] == (
        Line("✗", "3 images have no caption (0.png, ...)", "add 0.txt"),
        Line(
            "!",
            "2 smaller than 64 px (again.png: 8 x 8 px, ...); 1 duplicate image (small.png = again.png)",
        ),
        Line(
            "✗",
            "2 pairs, 2 captions, 2 words",
            "t2i train would refuse: 60% is bad, at most 1% may be",
        ),
    )


def test_a_few_bad_ones_exit_3_but_do_not_stop_training(tmp_path):
    for index in range(100):
        write(tmp_path, f"{index:03}", "x" if index else None, index, side=8)
    report = check(tmp_path)
    assert report.exit_code == 3
    assert report.lines[-1].sign == "✓"


def test_as_data_every_item_is_listed(tmp_path):
    for index in range(5):
        write(tmp_path, f"{index}", None, index)
    found = json.loads(json.dumps(check(tmp_path).to_dict()))
    assert found["ok"] is False
    assert found["problems"][0]["items"] == [f"{index}.png" for index in range(5)]
    assert {"layout", "pairs", "captions", "words", "estimate", "splits"} <= found.keys()


def test_every_fault_can_be_told():
    for kind, fault in FAULTS.items():
        one, two = Problem(kind, ("x",)).text, Problem(kind, ("x", "y")).text
        assert one.startswith(f"1 {fault.one}")
        if fault.many:
            assert two.startswith(f"2 {fault.many}")


def test_the_examples_are_sound_and_free():
    report = check(ICONS)
    assert report.ok
    assert report.data.problems == ()
    assert 300 <= report.data.pairs <= 600
    assert {record.meta["license"] for record in report.data.records} <= {
        "MIT",
        "Apache-2.0",
        "Public-Domain",
    }
    assert all(record.meta["author"] and record.meta["source"] for record in report.data.records)
    assert sum(file.stat().st_size for file in ICONS.rglob("*") if file.is_file()) <= 3_000_000
