"""What `t2i check` says, as lines and as plain data, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import images
from t2i_cli.check import Line, check, write_preview
from t2i_cli.data import ReadOptions
from t2i_cli.data.report import FAULTS, DataReport, Problem
from t2i_cli.errors import OutputError

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
        Line(
            "",
            "each line of a caption file is a caption of its own "
            "(chosen; --caption-lines says otherwise)",
        ),
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
        Line(
            "✗", "3 images have no caption (0.png, ...)", "add 0.txt, or use --captions-from name"
        ),
        Line(
            "!",
            "2 smaller than 64 px (again.png: 8 x 8 px, ...); 1 duplicate image (small.png = again.png)",
        ),
        Line(
            "✗",
            "2 pairs, 2 captions, 2 words; 3 left out",
            "t2i train would refuse: 60% is bad, at most 50% may be",
        ),
    )


def test_bad_ones_are_left_out_and_told(tmp_path):
    for index in range(10):
        write(tmp_path, f"{index:03}", "x" if index else None, index, side=64)
    report = check(tmp_path)
    assert report.exit_code == 0
    assert [line.sign for line in report.lines] == ["", "✗", "✓"]
    assert report.lines[-1].message == "9 pairs, 9 captions, 1 word; 1 left out"
    assert check(tmp_path, ReadOptions(max_bad=0.0)).exit_code == 3


def test_what_is_wrong_is_grouped_by_its_cause(tmp_path):
    for index in range(8):
        write(tmp_path, f"{index}", "x", index)
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes((tmp_path / f"{index}.png").read_bytes()[:400])
    (tmp_path / "3.png").write_bytes(b"<html>")
    found = [line.message for line in check(tmp_path).lines if line.sign == "✗"]
    assert found == [
        "3 files cannot be read (0.png: truncated, ...)",
        "1 file cannot be read (3.png: not a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF picture)",
    ]


def test_splits_shapes_and_attributes_are_told(tmp_path):
    for index, split in enumerate(("train", "train", "val", "test")):
        write(tmp_path / split, f"{index}", "x", index, side=64)
    wide = np.zeros((20, 40, 3), np.uint8)
    (tmp_path / "train" / "0.png").write_bytes(images.encode(wide))
    said = [line.message for line in check(tmp_path).lines]
    assert "splits: test 1, train 2, val 1 (test is never trained on)" in said
    assert "1 picture is cut to a square, centred on what it shows" in said


def test_only_a_test_split_is_nothing_to_train_on(tmp_path):
    write(tmp_path / "test", "a", "x")
    report = check(tmp_path)
    assert report.exit_code == 3
    assert report.lines[-1].mend == "nothing to train on"


def test_several_paths_are_one_set(tmp_path):
    write(tmp_path / "a", "0", "one", 1)
    write(tmp_path / "b", "0", "two", 2)
    write(tmp_path / "b", "1", "three", 1)
    report = check([tmp_path / "a", tmp_path / "b"])
    assert report.data.pairs == 3
    assert {record.name for record in report.data.records} == {"a/0.png", "b/0.png", "b/1.png"}
    assert [problem.kind for problem in report.data.problems] == ["duplicate"]


def test_a_preview_shows_what_the_model_will_see(tmp_path):
    write(tmp_path / "set", "a", "a red cat")
    report, sheet = check(tmp_path / "set"), tmp_path / "sheet.png"
    write_preview(report, sheet, ReadOptions())
    assert images.decode(sheet.read_bytes(), name="sheet").shape[0] > 64
    with pytest.raises(OutputError, match="exists"):
        write_preview(report, sheet, ReadOptions())
    assert images.read_text(sheet.read_bytes(), name="x").text["t2i"]
    write_preview(report, tmp_path / "set" / "sheet.png", ReadOptions())
    again = check(tmp_path / "set").data
    assert again.pairs == 1 and not again.errors  # what t2i wrote is never data
    assert [problem.items for problem in again.problems if problem.kind == "own"] == [
        ("sheet.png",)
    ]


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
    assert {record.attributes["license"] for record in report.data.records} <= {
        "MIT",
        "Apache-2.0",
        "Public-Domain",
    }
    assert all(
        record.attributes["author"] and record.attributes["source"]
        for record in report.data.records
    )
    assert sum(file.stat().st_size for file in ICONS.rglob("*") if file.is_file()) <= 3_000_000
