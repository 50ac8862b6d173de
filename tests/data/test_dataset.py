"""Loading, the order of batches, and what is held out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_cli import data, images
from t2i_cli.data import ReadOptions, reading
from t2i_cli.errors import DataError


def write_pair(folder: Path, name: str, pixels: np.ndarray, caption: str = "a thing") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(images.encode(pixels))
    (folder / f"{name}.txt").write_text(caption)


def noise(seed: int, channels: int = 4, side: int = 16) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, channels), np.uint8)
    if channels == 4:
        pixels[..., 3] = np.where(pixels[..., 3] > 99, 255, 0)
        pixels[pixels[..., 3] == 0] = 0
    return pixels


def make(folder: Path, count: int = 6, channels: int = 4) -> Path:
    for index in range(count):
        write_pair(folder, f"{index:03}", noise(index, channels), f"thing {index}\nalso {index}")
    return folder


class TestLoad:
    def test_pixels_captions_and_names_in_order(self, tmp_path):
        got = data.load(make(tmp_path / "set"), 16, cache=tmp_path / "cache")
        assert isinstance(got.pixels, np.memmap)
        assert got.pixels.shape == (6, 16, 16, 4)
        assert got.pixels.flags["C_CONTIGUOUS"]
        assert all((got.pixels[index] == noise(index)).all() for index in range(6))
        assert got.captions[2] == ["thing 2", "also 2"]
        assert got.names[2] == "002.png"
        assert len(got) == 6

    def test_any_number_of_workers_reads_the_same(self, tmp_path, monkeypatch):
        asked = []
        pool = reading.ThreadPoolExecutor
        monkeypatch.setattr(
            reading,
            "ThreadPoolExecutor",
            lambda workers, name: asked.append(workers) or pool(workers, name),
        )
        made = make(tmp_path / "set")
        one = data.load(made, 16, cache=tmp_path / "one", workers=1)
        three = data.load(made, 16, cache=tmp_path / "three", workers=3)
        assert asked == [1, 3]
        assert (one.pixels == three.pixels).all()

    def test_from_the_cache_it_is_the_same_and_decodes_nothing(self, tmp_path):
        calls: list[tuple[int, int]] = []

        def load() -> data.CaptionedImages:
            return data.load(
                tmp_path / "set",
                16,
                cache=tmp_path / "cache",
                progress=lambda done, total: calls.append((done, total)),
            )

        make(tmp_path / "set")
        first = load()
        assert calls[-1] == (6, 6)
        calls.clear()
        second = load()
        assert calls == []
        assert (first.pixels == second.pixels).all()
        assert first.captions == second.captions
        assert first.report.to_dict() == second.report.to_dict()
        assert first.digest == second.digest

    @pytest.mark.parametrize("change", ["caption", "pixel", "name", "new"])
    def test_any_change_of_content_changes_the_digest(self, tmp_path, change):
        folder = make(tmp_path / "set")
        before = data.load(folder, 16, cache=tmp_path / "cache")
        if change == "caption":
            (folder / "001.txt").write_text("other")
        elif change == "pixel":
            (folder / "001.png").write_bytes(images.encode(noise(77)))
        elif change == "name":
            (folder / "001.png").rename(folder / "xyz.png")
            (folder / "001.txt").rename(folder / "xyz.txt")
        else:
            write_pair(folder, "new", noise(78))
        after = data.load(folder, 16, cache=tmp_path / "cache")
        assert after.digest != before.digest
        assert (
            after.captions != before.captions
            or (after.pixels != before.pixels).any()
            or after.names != before.names
        )

    def test_the_digest_does_not_know_place_time_or_strangers(self, tmp_path):
        before = data.load(make(tmp_path / "a"), 16, cache=tmp_path / "cache").digest
        (make(tmp_path / "b") / "README.md").write_text("hello")
        assert data.load(tmp_path / "b", 16, cache=tmp_path / "cache").digest == before
        assert data.load(tmp_path / "b", 8, cache=tmp_path / "cache").digest == before

    def test_a_broken_cache_is_built_again(self, tmp_path):
        make(tmp_path / "set")
        data.load(tmp_path / "set", 16, cache=tmp_path / "cache")
        (file,) = (tmp_path / "cache").glob("data/*/pixels.bin")
        content = bytearray(file.read_bytes())
        content[100] ^= 255
        file.write_bytes(content)
        got = data.load(tmp_path / "set", 16, cache=tmp_path / "cache")
        assert (got.pixels[0] == noise(0)).all()

    def test_opaque_pictures_have_alpha_1(self, tmp_path):
        write_pair(tmp_path / "set", "a", noise(9, 3))
        got = data.load(tmp_path / "set", 16, cache=tmp_path)
        assert got.pixels.shape == (1, 16, 16, 4)
        assert (got.pixels[0, ..., :3] == noise(9, 3)).all()
        assert (got.pixels[0, ..., 3] == 255).all()
        assert got.opaque
        write_pair(tmp_path / "set", "b", noise(10))
        got = data.load(tmp_path / "set", 16, cache=tmp_path)
        assert not got.opaque
        assert (got.pixels[1] == noise(10)).all()
        flat = data.load(tmp_path / "set", 16, cache=tmp_path, image_channels=3)
        assert (flat.pixels[1] == images.flatten(noise(10))).all()

    def test_only_a_set_that_is_mostly_bad_is_refused(self, tmp_path):
        make(tmp_path / "set", 2)
        write_pair(tmp_path / "set", "none", noise(9))
        (tmp_path / "set" / "none.txt").unlink()
        (tmp_path / "set" / "bad.png").write_bytes(b"junk")
        (tmp_path / "set" / "bad.txt").write_text("bad")
        got = data.load(tmp_path / "set", 8, cache=tmp_path)
        assert got.names == ["000.png", "001.png"]
        assert not got.report.ok
        assert got.report.usable
        (tmp_path / "set" / "001.txt").unlink()
        with pytest.raises(DataError, match="75% is bad, at most 50% may be") as caught:
            data.load(tmp_path / "set", 8, cache=tmp_path)
        assert "t2i check" in caught.value.hint
        assert len(data.load(tmp_path / "set", 8, ReadOptions(max_bad=0.8), cache=tmp_path)) == 1
        assert not list(tmp_path.glob("data/building-*"))

    @pytest.mark.parametrize("most", [0.0, 0.05])
    def test_strict_and_max_bad_stop(self, tmp_path, most):
        make(tmp_path / "set", 9)
        (tmp_path / "set" / "bad.png").write_bytes(b"junk")
        (tmp_path / "set" / "bad.txt").write_text("bad")
        with pytest.raises(DataError, match=f"10% is bad, at most {100 * most:.0f}% may be"):
            data.load(tmp_path / "set", 8, ReadOptions(max_bad=most), cache=tmp_path)

    def test_a_way_to_fit_gives_other_pixels(self, tmp_path):
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, 20:] = 255
        write_pair(tmp_path / "set", "a", pixels)
        crop, pad, stretch = (
            data.load(tmp_path / "set", 16, ReadOptions(fit=how), cache=tmp_path)
            for how in ("crop", "pad", "stretch")
        )
        assert crop.report.fitted == {"crop": 1}
        assert len({got.pixels.tobytes() for got in (crop, pad, stretch)}) == 3
        assert len({got.digest for got in (crop, pad, stretch)}) == 3

    def test_attributes_are_kept_of_each_picture(self, tmp_path):
        make(tmp_path / "set", 2)
        rows = [
            {"file_name": f"{k:03}.png", "text": "x", "style": style, "year": 2000 + k}
            for k, style in enumerate(("flat", "3d"))
        ]
        (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        got = data.load(tmp_path / "set", 8, cache=tmp_path)
        assert got.attributes == [
            {"style": "flat", "year": "2000"},
            {"style": "3d", "year": "2001"},
        ]

    def test_needs_no_torch(self):
        script = (
            "import sys, t2i_cli.data, t2i_cli.check, t2i_cli.images; print('torch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "False"


class TestSplit:
    def named(self, tmp_path: Path, splits: list[str]) -> data.CaptionedImages:
        folder = make(tmp_path / "set", len(splits))
        rows = [
            {"file_name": f"{index:03}.png", "text": "x", "split": split}
            for index, split in enumerate(splits)
        ]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return data.load(folder, 8, cache=tmp_path)

    def test_named_splits_are_obeyed_and_val_style_comes_first(self, tmp_path):
        got = self.named(
            tmp_path, ["val_concept", "train", "val_style", "", "val_concept", "train"]
        )
        train, val = got.split(0.5, seed=3)
        assert train.tolist() == [1, 3, 5]
        assert [got.splits[index] for index in val] == ["val_style", "val_concept", "val_concept"]
        assert train.dtype == val.dtype == np.int64

    def test_one_name_for_all_is_no_split(self, tmp_path):
        train, val = self.named(tmp_path, ["train"] * 6).split(0.34, seed=0)
        assert (len(train), len(val)) == (4, 2)

    def test_what_is_named_test_is_in_neither(self, tmp_path):
        got = self.named(tmp_path, ["train", "test", "val", "test", "train", "train"])
        train, val = got.split(0.5, seed=0)
        assert (train.tolist(), val.tolist()) == ([0, 4, 5], [2])

    def test_without_a_named_val_a_share_of_train_is_held_out_and_test_is_in_neither(
        self, tmp_path
    ):
        got = self.named(tmp_path, ["train", "test", "train", "test", "train", "train"])
        train, val = got.split(0.5, seed=0)
        assert sorted([*train, *val]) == [0, 2, 4, 5]
        assert len(val) == 2

    def test_what_is_named_test_is_what_is_measured_with(self, tmp_path):
        got = self.named(tmp_path, ["train", "test", "val", "test", "train", "train"])
        train, held_out = got.split_to_measure()
        assert (train.tolist(), held_out.tolist()) == ([0, 4, 5], [1, 3])
        got = self.named(tmp_path / "none", ["train", "val", "train"])
        assert [one.tolist() for one in got.split_to_measure()] == [[0, 2], [1]]

    def test_all_of_a_test_split_is_refused(self, tmp_path):
        got = self.named(tmp_path, ["test"] * 3)
        with pytest.raises(DataError, match="never trained on"):
            got.split(0.5)

    def test_what_a_run_had_before_stays_on_its_side(self, tmp_path):
        got = data.load(make(tmp_path / "set", 40), 8, cache=tmp_path)
        train, val = got.split(0.1, seed=1)
        before = {got.hashes[row]: "train" for row in train}
        before |= {got.hashes[row]: "val" for row in val}
        for k in range(40):
            write_pair(tmp_path / "set", f"new{k}", noise(500 + k))
        more = data.load(tmp_path / "set", 8, cache=tmp_path)
        train, val = more.split(0.1, seed=1, before=before)
        assert sorted([*train, *val]) == list(range(80))
        assert all(before.get(more.hashes[row], "train") == "train" for row in train)
        assert all(before.get(more.hashes[row], "val") == "val" for row in val)
        assert any(more.hashes[row] not in before for row in train)

    def test_a_share_by_content(self, tmp_path):
        folder = make(tmp_path / "set", 40)
        got = data.load(folder, 8, cache=tmp_path)
        train, val = got.split(0.1, seed=1)
        assert len(val) == 4
        assert sorted([*train, *val]) == list(range(40))
        held = {got.names[index] for index in val}
        assert held != {got.names[index] for index in got.split(0.1, seed=2)[1]}
        write_pair(folder, "000-new", noise(99))
        more = data.load(folder, 8, cache=tmp_path)
        assert len(held & {more.names[index] for index in more.split(0.1, seed=1)[1]}) >= 3

    def test_duplicates_stay_on_one_side(self, tmp_path):
        for index in range(30):
            write_pair(tmp_path / "set", f"{index:03}", noise(index % 10))
        got = data.load(tmp_path / "set", 8, cache=tmp_path)
        train, val = got.split(0.2, seed=0)
        assert not {index % 10 for index in train} & {index % 10 for index in val}

    @pytest.mark.parametrize(("val", "expected"), [(0.0, 0), (0.02, 1), (0.5, 3)])
    def test_small_sets(self, tmp_path, val, expected):
        got = data.load(make(tmp_path / "set", 6), 8, cache=tmp_path)
        assert len(got.split(val)[1]) == expected


class TestBatchIndices:
    @settings(max_examples=100, deadline=None)
    @given(st.integers(1, 50), st.integers(1, 120), st.integers(0, 2**63 - 1), st.integers(0, 30))
    def test_every_epoch_is_a_permutation_however_it_is_cut(self, count, batch_size, seed, step):
        steps = step + -(-3 * count // batch_size)
        stream = np.concatenate(
            [data.batch_indices(count, batch_size, seed, one) for one in range(steps)]
        )
        for epoch in range(len(stream) // count):
            assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
        ones = [
            data.batch_indices(count, 1, seed, position)[0]
            for position in range(min(60, len(stream)))
        ]
        assert stream[: len(ones)].tolist() == ones

    def test_the_order_is_frozen(self):
        # a run that is resumed years later must go on in the same order
        assert data.batch_indices(10, 12, seed=7, step=3).tolist() == FROZEN

    def test_seeds_and_epochs_differ(self):
        first = data.batch_indices(100, 100, 0, 0)
        assert (first != data.batch_indices(100, 100, 1, 0)).any()
        assert (first != data.batch_indices(100, 100, 0, 1)).any()
        assert first.dtype == np.int64


FROZEN = [3, 2, 6, 0, 3, 7, 5, 1, 4, 2, 0, 9]
