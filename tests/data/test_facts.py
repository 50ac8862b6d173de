"""What is kept of files that were looked at: used while nothing changes, never longer."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import data, metadata, png
from t2i_cli.data import facts
from tests import folders


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of pictures that were decoded; sets of two are kept, and none is too fresh."""
    names: list[str] = []
    scan = sys.modules["t2i_cli.data.scan"]  # the package has a function of this name
    read = scan.read_pictures

    def counting(records, *arguments, **more):
        names.extend(record.name for record in records)
        return read(records, *arguments, **more)

    monkeypatch.setattr(scan, "read_pictures", counting)
    monkeypatch.setattr(facts, "LEAST", 2)
    monkeypatch.setattr(facts, "_FRESH", -3600.0)
    return names


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, decoded: list[str]):
    folders.fill(tmp_path / "set", 4)
    (tmp_path / "set" / "p3.png").write_bytes(b"junk")
    first = data.scan(tmp_path / "set", cache=tmp_path / "cache")
    assert len(decoded) == 4
    decoded.clear()
    again = data.scan(tmp_path / "set", cache=tmp_path / "cache")
    assert decoded == []
    assert again.to_dict() == first.to_dict()
    assert again.records == first.records


def test_what_has_changed_is_read_again(tmp_path: Path, decoded: list[str]):
    folders.fill(tmp_path / "set", 4)
    data.scan(tmp_path / "set", cache=tmp_path / "cache")
    decoded.clear()
    path = tmp_path / "set" / "p1.png"
    before = path.stat()
    path.write_bytes(bytes(len(path.read_bytes())))  # as long, and as old as it says
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    folders.fill(tmp_path / "set", 1, start=9)
    report = data.scan(tmp_path / "set", cache=tmp_path / "cache")
    assert sorted(decoded) == ["p1.png", "p9.png"]
    assert report.pairs == 4
    assert [problem.kind for problem in report.errors] == ["unreadable"]


def test_what_has_only_just_changed_is_not_kept(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(facts, "_FRESH", 3600.0)
    folders.fill(tmp_path / "set", 4)
    for _ in range(2):
        decoded.clear()
        data.scan(tmp_path / "set", cache=tmp_path / "cache")
        assert len(decoded) == 4


def test_pictures_of_an_archive_are_known_while_it_is_the_same(tmp_path: Path, decoded: list[str]):
    path = folders.CASES["zip_sidecar"].build(tmp_path / "set")
    data.scan(path, cache=tmp_path / "cache")
    decoded.clear()
    assert data.scan(path, cache=tmp_path / "cache").pairs == 6
    assert decoded == []
    path.write_bytes(path.read_bytes())
    assert data.scan(path, cache=tmp_path / "cache").pairs == 6
    assert len(decoded) == 6


@pytest.mark.parametrize("content", [b"", b"0\nx", b"2\n\xff\xff\tjunk\n", b"2\np0.png\t[1]\n"])
def test_damaged_facts_cost_time_alone(tmp_path: Path, decoded: list[str], content: bytes):
    folders.fill(tmp_path / "set", 3)
    data.scan(tmp_path / "set", cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "facts").iterdir()
    file.write_bytes(content)
    decoded.clear()
    assert data.scan(tmp_path / "set", cache=tmp_path / "cache").pairs == 3
    assert len(decoded) == 3


@pytest.mark.skipif(os.name != "posix", reason="a file where a folder is asked for")
def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path, decoded: list[str]):
    folders.fill(tmp_path / "set", 3)
    (tmp_path / "cache").write_text("a file")
    assert data.scan(tmp_path / "set", cache=tmp_path / "cache").pairs == 3


def test_small_sets_and_no_cache_leave_nothing(tmp_path: Path):
    folders.fill(tmp_path / "set", 3)
    data.scan(tmp_path / "set", cache=tmp_path / "cache")
    data.scan(tmp_path / "set")
    assert not (tmp_path / "cache").exists()


def test_progress_begins_before_anything_is_decoded(tmp_path: Path):
    folders.fill(tmp_path / "set", 3)
    told: list[tuple[int, int]] = []
    data.scan(tmp_path / "set", progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 0)
    assert told[-1] == (3, 3)
    assert (0, 3) in told


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, decoded: list[str]):
    folders.fill(tmp_path / "set", 3)
    left = tmp_path / "cache" / "facts" / "0123.jsonl.abcd.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    data.scan(tmp_path / "set", cache=tmp_path / "cache")
    (kept,) = left.parent.iterdir()
    assert kept.suffix == ".jsonl"


def test_a_known_picture_that_t2i_draws_over_is_left_out(tmp_path: Path, decoded: list[str]):
    folders.fill(tmp_path / "set", 4)
    assert data.scan(tmp_path / "set", cache=tmp_path / "cache").pairs == 4
    (tmp_path / "set" / "p1.png").write_bytes(
        png.encode(np.zeros((8, 8, 4), np.uint8), {}, metadata.xmp())
    )
    for _ in range(2):
        report = data.scan(tmp_path / "set", cache=tmp_path / "cache")
        assert report.pairs == 3
        assert [one.items for one in report.problems if one.kind == "own"] == [("p1.png",)]


def test_a_drawn_picture_in_an_archive_is_known_as_such(tmp_path: Path, decoded: list[str]):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for k in range(3):
            pixels = np.full((8, 8, 4), 50 * k + 50, np.uint8)
            archive.writestr(f"p{k}.png", png.encode(pixels, {}, metadata.xmp() if k == 0 else ""))
            archive.writestr(f"p{k}.txt", f"number {k}")
    for read_again in (3, 0):
        decoded.clear()
        report = data.scan(tmp_path / "set.zip", cache=tmp_path / "cache")
        assert report.pairs == 2
        assert len(decoded) == read_again
        assert "set.zip/p0.png: t2i drew it" in [one.items[0] for one in report.problems]
