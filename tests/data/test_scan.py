"""What is said of each fault in a data set; tests/data/test_layouts.py has the forms that people have."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2i_cli import data
from t2i_cli.data import ReadOptions
from t2i_cli.data.names import Names, Unmatched
from t2i_cli.data.report import DataReport
from t2i_cli.errors import DataError, UsageError
from t2i_cli.images import encode


def picture(seed: int = 0, side: int = 64, format: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), np.uint8)
    pixels[..., 3] = np.where(pixels[..., 3] > 128, 255, 0)
    return encode(pixels.repeat(side // 8, 0).repeat(side // 8, 1), format)


ONE = picture()


def put_all(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def shard(files: dict[str, bytes | str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def captions(report: DataReport) -> dict[str, tuple[str, ...]]:
    return {record.name: record.captions for record in report.records}


def kinds(report: DataReport) -> dict[str, int]:
    return {problem.kind: problem.count for problem in report.problems}


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


class TestSidecar:
    def test_any_depth_and_alternatives(self, tmp_path):
        put_all(
            tmp_path,
            {
                "a.png": picture(1),
                "a.txt": "a red cat\na cat\n",
                "deep/er/b.webp": picture(2, format="webp"),
                "deep/er/b.caption": "\ufeffa dog",
                ".hidden/c.png": picture(3),
                "__MACOSX/a.png": b"junk",
                "._a.png": b"junk",
                "README.txt": "of the folder",
                "notes.md": "",
            },
        )
        report = data.scan(tmp_path)
        assert report.ok
        assert report.layout == "images with a caption file each"
        assert captions(report) == {"a.png": ("a red cat", "a cat"), "deep/er/b.webp": ("a dog",)}
        assert (report.pairs, report.captions, report.words) == (2, 3, 4)
        assert report.with_alpha == 2
        assert report.problems == ()

    def test_every_fault_is_counted_with_its_mend(self, tmp_path):
        put_all(
            tmp_path,
            {
                "a.png": picture(1),
                "a.jpg": picture(2, format="jpg"),
                "a.txt": "shared",
                "img/none.png": picture(3),
                "empty.png": picture(4),
                "empty.txt": " \n",
                "cut.png": picture(5)[:80],
                "cut.txt": "cut",
                "twin.png": picture(1),
                "twin.txt": "twin",
                "small.png": picture(6, 8),
                "small.txt": "small",
                "latin.png": picture(7),
                "latin.txt": b"\x01\xe9\xff",
                "stray.txt": "no image",
            },
        )
        report = data.scan(tmp_path)
        assert kinds(report) == {
            "no-caption": 2,
            "unreadable": 1,
            "bad-caption-file": 1,
            "duplicate": 1,
            "small": 1,
            "shared-caption-file": 1,
            "stray-caption-file": 1,
        }
        texts = {problem.kind: problem.text for problem in report.problems}
        assert texts["no-caption"] == "2 images have no caption (empty.png, ...)"
        assert texts["unreadable"] == "1 file cannot be read (cut.png: truncated)"
        assert texts["small"] == "1 smaller than 64 px (small.png: 8 x 8 px)"
        assert texts["duplicate"] == "1 duplicate image (twin.png = a.png)"
        assert (
            texts["shared-caption-file"]
            == "1 caption file belongs to several images (a.jpg and a.png share a.txt)"
        )
        assert texts["bad-caption-file"] == "1 caption file cannot be read (latin.txt: not text)"
        mends = {problem.kind: problem.mend for problem in report.problems}
        assert mends["unreadable"] == f"list them: t2i check {tmp_path} --json"
        assert not report.ok
        assert report.usable
        assert not data.scan(tmp_path, ReadOptions(max_bad=0.2)).usable
        assert set(captions(report)) == {"a.png", "a.jpg", "twin.png", "small.png"}

    def test_images_alone_are_told_of_every_way_out(self, tmp_path):
        put_all(tmp_path, {"red cat/1.png": picture(1), "red cat/2.png": picture(2)})
        (problem,) = data.scan(tmp_path).errors
        assert problem.text == "2 images have no caption (red cat/1.png, ...)"
        assert problem.mend == "add red cat/1.txt, or use --captions-from folder"

    def test_pictures_of_the_root_are_told_of_names(self, tmp_path):
        put_all(tmp_path, {"red_cat.png": picture(1)})
        (problem,) = data.scan(tmp_path).errors
        assert problem.mend == "add red_cat.txt, or use --captions-from name"

    def test_a_text_whose_picture_is_not_read_is_never_called_stray(self, tmp_path):
        put_all(
            tmp_path,
            {
                "a.png": picture(1),
                "a.txt": "a",
                "b.psd": b"8BPS",
                "b.txt": "b",
                "c.svg": "<svg/>",
                "d.txt": "of nothing",
            },
        )
        report = data.scan(tmp_path)
        assert kinds(report) == {"other-format": 1, "stray-caption-file": 1}
        assert report.errors[0].items == ("b.psd",)
        assert "PNG" in report.errors[0].mend
        for problem in report.problems:
            assert "remove" not in problem.mend
            assert "delete" not in problem.mend

    @pytest.mark.skipif(os.name != "posix", reason="pipes")
    def test_pipes_are_not_waited_for(self, tmp_path):
        put_all(tmp_path, {"a.png": picture(1), "a.txt": "a", "b.png": picture(2)})
        os.mkfifo(tmp_path / "pipe.png")
        os.mkfifo(tmp_path / "b.txt")
        assert kinds(data.scan(tmp_path)) == {"no-caption": 1}

    @pytest.mark.skipif(os.name != "posix", reason="links")
    def test_links_are_followed_and_circles_end(self, tmp_path):
        put_all(tmp_path / "other", {"d.png": picture(4), "d.txt": "d"})
        put_all(
            tmp_path / "set",
            {"a.png": picture(1), "a.txt": "a", "real/b.png": picture(2), "real/b.txt": "b"},
        )
        links = {
            "again": "real",
            "around": "..",
            "self": ".",
            "d": "../other",
            "e.png": str(tmp_path / "other" / "d.png"),
            "e.txt": "../other/d.txt",
            "f.png": "nowhere.png",
            "g.png": "g.png",
        }
        for name, target in links.items():
            (tmp_path / "set" / name).symlink_to(target)
        report = data.scan(tmp_path / "set")
        assert captions(report) == {
            "a.png": ("a",),
            "real/b.png": ("b",),
            "d/d.png": ("d",),
            "e.png": ("d",),
        }
        items = {problem.kind: problem.items for problem in report.problems}
        assert items["broken-link"] == ("f.png", "g.png")
        assert set(items["link-loop"]) == {"again", "around", "self"}
        assert report.usable

    @pytest.mark.skipif(os.name != "posix", reason="links")
    def test_links_can_be_left_out(self, tmp_path):
        put_all(tmp_path / "other", {"d.png": picture(4), "d.txt": "d"})
        put_all(tmp_path / "set", {"a.png": picture(1), "a.txt": "a"})
        (tmp_path / "set" / "d").symlink_to("../other")
        (tmp_path / "set" / "e.png").symlink_to("../other/d.png")
        report = data.scan(tmp_path / "set", ReadOptions(follow_links=False))
        assert captions(report) == {"a.png": ("a",)}
        assert {problem.kind: set(problem.items) for problem in report.problems} == {
            "link": {"d", "e.png"}
        }

    def test_hostile_names_are_made_visible(self, tmp_path):
        put_all(tmp_path, {"\x1b[31m\u202e.png": picture(1)})
        report = data.scan(tmp_path)
        assert "\x1b" not in report.errors[0].text
        assert "\x1b" not in json.dumps(report.to_dict(), ensure_ascii=False)
        assert "\u202e" not in json.dumps(report.to_dict(), ensure_ascii=False)


class TestMetadata:
    def test_jsonl(self, tmp_path):
        rows = jsonl(
            {"file_name": "img/a.png", "text": "a red cat", "split": "train", "style": "flat"},
            {"file_name": "./img\\b.png", "captions": ["a dog", "dog"], "split": "val"},
            {"file_name": "img/a.png", "text": "a cat"},
        )
        put_all(
            tmp_path,
            {
                "metadata.jsonl": "\ufeff" + rows,
                "img/a.png": picture(1),
                "img/b.png": picture(2),
                "img/a.txt": "not read",
            },
        )
        report = data.scan(tmp_path)
        assert report.layout == "image folder with metadata.jsonl"
        assert captions(report) == {
            "img/a.png": ("a red cat", "a cat"),
            "img/b.png": ("a dog", "dog"),
        }
        assert report.records[0].attributes == {"style": "flat"}
        assert report.splits == {"train": 1, "val": 1}
        assert kinds(report) == {"left-out": 1}

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_csv(self, tmp_path, delimiter):
        text = '\ufefffile_name|caption\r\na.png|"a cat, ""here""; it sits"\r\nb.png|\r\n'.replace(
            "|", delimiter
        )
        put_all(tmp_path, {"metadata.csv": text, "a.png": picture(1), "b.png": picture(2)})
        report = data.scan(tmp_path)
        assert captions(report) == {"a.png": ('a cat, "here"; it sits',)}
        assert kinds(report) == {"no-caption": 1}

    def test_a_comma_out_of_quotes_is_part_of_the_last_caption(self, tmp_path):
        put_all(
            tmp_path,
            {
                "metadata.csv": "file_name,text\na.png,a cat, sitting\nb.png,a dog\n",
                "a.png": picture(1),
                "b.png": picture(2),
            },
        )
        report = data.scan(tmp_path)
        assert captions(report) == {"a.png": ("a cat, sitting",), "b.png": ("a dog",)}
        assert kinds(report) == {"unquoted": 1}

    def test_more_cells_than_the_header_are_told_where_no_caption_ends_it(self, tmp_path):
        put_all(
            tmp_path,
            {
                "metadata.csv": "file_name,text,style\na.png,a cat, sitting,flat\nb.png,a dog,flat\n",
                "a.png": picture(1),
                "b.png": picture(2),
            },
        )
        report = data.scan(tmp_path)
        assert report.errors[0].kind == "bad-row"
        assert "quotes" in report.errors[0].mend
        assert set(captions(report)) == {"b.png"}

    def test_parquet(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(
            pyarrow.table({"file_name": ["a.png"], "captions": [["a cat", "cat"]]}),
            tmp_path / "metadata.parquet",
        )
        put_all(tmp_path, {"a.png": picture(1)})
        assert captions(data.scan(tmp_path)) == {"a.png": ("a cat", "cat")}
        (tmp_path / "metadata.parquet").write_bytes(b"PAR1junk")
        assert data.scan(tmp_path).errors[0].kind == "bad-metadata"

    def test_a_folder_each_with_its_own(self, tmp_path):
        put_all(
            tmp_path,
            {
                "x/metadata.jsonl": jsonl({"file_name": "a.png", "text": "x"}),
                "x/a.png": picture(1),
                "y/metadata.jsonl": jsonl({"file_name": "a.png", "text": "y"}),
                "y/a.png": picture(2),
            },
        )
        assert captions(data.scan(tmp_path)) == {"x/a.png": ("x",), "y/a.png": ("y",)}

    @pytest.mark.parametrize(
        "name",
        [
            "/etc/passwd",
            "../a.png",
            "img/../../a.png",
            "https://x/a.png",
            "C:\\a.png",
            "~/a.png",
            "..\\a.png",
            "a\0.png",
        ],
    )
    def test_paths_that_lead_out_are_refused(self, tmp_path, name):
        put_all(tmp_path, {"a.png": picture(1)})
        put_all(
            tmp_path / "set",
            {
                "metadata.jsonl": jsonl(
                    {"file_name": name, "text": "x"}, {"file_name": "b.png", "text": "b"}
                ),
                "b.png": picture(2),
            },
        )
        report = data.scan(tmp_path / "set")
        assert kinds(report) == {"bad-path": 1}
        assert set(captions(report)) == {"b.png"}

    @settings(max_examples=200)
    @given(st.text(alphabet="ab./\\:~ \0", max_size=20), st.sampled_from(["", "sub", "sub/er"]))
    def test_no_path_leads_out(self, name, folder):
        files = ("a", "b", "sub/a", "sub/er/b.png")
        try:
            assert Names(files, "/data/set").find(name, folder) in files
        except Unmatched as why:
            assert why.kind in ("bad-path", "missing-image", "ambiguous")

    def test_no_match_never_trains(self, tmp_path):
        put_all(
            tmp_path,
            {
                "metadata.jsonl": jsonl({"file_name": "images/a.png", "text": "x"}),
                "a.png": picture(1),
            },
        )
        report = data.scan(tmp_path)
        assert report.errors[0].kind == "no-match"
        assert (
            report.errors[0].text
            == "no row of metadata.jsonl matches an image: it names images/a.png, the folder holds a.png"
        )
        with pytest.raises(DataError, match=r"no row of metadata\.jsonl matches an image"):
            data.load(tmp_path, 8)

    @pytest.mark.parametrize(
        ("rows", "key", "mend"),
        [
            ([{"file_name": "a.png", "captoin": "x"}], None, "use --caption-key captoin"),
            ([{"file_name": "a.png", "alt_text": "x"}], None, "use --caption-key alt_text"),
            (
                [{"file_name": "a.png", "description_en": "x", "id": "4"}],
                "descripton",
                "use --caption-key description_en",
            ),
            ([{"file_name": "a.png", "text": "x"}], "texts", "use --caption-key text"),
            ([{"flie_name": "a.png", "text": "x"}], None, "rename flie_name to file_name"),
        ],
    )
    def test_a_wrong_key_gets_a_suggestion(self, tmp_path, rows, key, mend):
        put_all(tmp_path, {"metadata.jsonl": jsonl(*rows), "a.png": picture(1)})
        report = data.scan(tmp_path, ReadOptions(caption_key=key))
        assert report.errors[0].mend == mend
        assert report.errors[0].fault.fatal

    def test_broken_rows_name_their_line(self, tmp_path):
        text = (
            jsonl({"file_name": "a.png", "text": "x"}) + "{oops\n[1]\n" + jsonl({"text": "no name"})
        )
        put_all(tmp_path, {"metadata.jsonl": text, "a.png": picture(1), "extra.png": picture(2)})
        report = data.scan(tmp_path)
        assert report.errors[0].items == (
            "metadata.jsonl:2: not a JSON object",
            "metadata.jsonl:3: not a JSON object",
            "metadata.jsonl:4: no file_name",
        )
        assert kinds(report)["unlisted"] == 1

    @pytest.mark.parametrize("content", [b"\xff\xfe{\0}\0", b"", b"\n\n"])
    def test_files_that_hold_nothing(self, tmp_path, content):
        put_all(tmp_path, {"metadata.jsonl": content, "a.png": picture(1)})
        report = data.scan(tmp_path)
        assert not report.usable
        assert report.errors[0].fault.fatal

    def test_names_that_differ_in_unicode_form_match(self, tmp_path):
        put_all(
            tmp_path,
            {
                "metadata.jsonl": jsonl({"file_name": "cafe\u0301.png", "text": "x"}),
                "caf\u00e9.png": picture(1),
            },
        )
        assert captions(data.scan(tmp_path)) == {"caf\u00e9.png": ("x",)}


class TestShards:
    FILES = {  # noqa: RUF012 (read only)
        "a.webp": picture(1, format="webp"),
        "a.json": json.dumps({"captions": ["a cat", "cat"], "split": "train", "style": "flat"}),
        "d/b.png": picture(2),
        "d/b.txt": "a dog\n",
        "d/b.json": json.dumps({"caption": "a dog", "url": "x", "exif": {}}),
    }

    @pytest.mark.parametrize("name", ["00000.tar", "00000.tar.gz", "x.tgz"])
    def test_as_webdataset_and_img2dataset_write_them(self, tmp_path, name):
        content = shard(self.FILES)
        content = gzip.compress(content) if name.endswith("gz") else content
        put_all(
            tmp_path,
            {
                name: content,
                "00000_stats.json": "{}",
                "README.md": "",
                "build.py": "",
                "LICENSES.txt": "mine",
            },
        )
        report = data.scan(tmp_path)
        assert report.ok
        assert report.problems == ()
        assert report.layout == "tar shards (1)"
        assert captions(report) == {
            f"{name}/a.webp": ("a cat", "cat"),
            f"{name}/d/b.png": ("a dog",),
        }
        assert report.records[0].attributes == {"style": "flat"}
        assert report.splits == {"train": 1}
        assert data.scan(tmp_path / name).pairs == 2

    def test_dots_in_a_key(self, tmp_path):
        put_all(
            tmp_path,
            {
                "s.tar": shard(
                    {"k.left.png": picture(1), "k.txt": "x", "._k.png": b"", "__MACOSX/k.txt": "no"}
                )
            },
        )
        assert captions(data.scan(tmp_path)) == {"s.tar/k.left.png": ("x",)}

    def test_faults(self, tmp_path):
        files = {
            **self.FILES,
            "c.png": picture(3),
            "e.txt": "no image",
            "f.png": picture(4),
            "f.json": "{",
            "g.png": b"junk",
            "g.txt": "g",
        }
        put_all(
            tmp_path,
            {
                "s.tar": shard(files),
                "cut.tar": shard(self.FILES).rstrip(b"\0")[:-600],
                "bare.tar": shard({"x.txt": "x" * 512})[:1024],
            },
        )
        report = data.scan(tmp_path)
        found = kinds(report)
        assert found["no-caption"] == 1
        assert found["bad-caption-file"] == 1
        assert found["unreadable"] == 1
        assert found["stray-caption-file"] == 2
        assert (found["cut-shard"], found["no-end-marker"]) == (1, 1)

    def test_every_truncation_of_a_shard_is_reported(self, tmp_path):
        whole = shard(self.FILES)
        path = tmp_path / "s.tar"
        # tarfile pads to 10240 bytes; past the second zero block nothing is lost
        used = len(whole.rstrip(b"\0"))
        for length in range(0, used, 499):
            path.write_bytes(whole[:length])
            report = data.scan(path)
            assert kinds(report).keys() & {"cut-shard", "no-end-marker", "empty"}, length

    def test_a_broken_gzip_stream(self, tmp_path):
        content = gzip.compress(shard({**self.FILES, "noise.bin": os.urandom(60_000)}))
        put_all(tmp_path, {"s.tar.gz": content[: len(content) // 2], "t.tar.gz": b"junk"})
        report = data.scan(tmp_path)
        assert kinds(report)["cut-shard"] == 2
        assert report.pairs == 2

    def test_wrong_key(self, tmp_path):
        put_all(tmp_path, {"s.tar": shard({"a.png": picture(1), "a.json": '{"label_text": "x"}'})})
        report = data.scan(tmp_path)
        assert report.errors[0].mend == "use --caption-key label_text"
        assert data.scan(tmp_path, ReadOptions(caption_key="label_text")).ok

    def test_shards_beside_loose_pictures_say_what_is_left_out(self, tmp_path):
        put_all(tmp_path, {"s.tar": shard(self.FILES), "preview.png": picture(9)})
        report = data.scan(tmp_path)
        assert report.ok
        assert report.problems[0].text == "1 file of another layout is left out (preview.png)"


class TestFolders:
    def test_only_when_asked_for(self, tmp_path):
        put_all(
            tmp_path,
            {"red cat/1.png": picture(1), "blue_dog/sub/2.png": picture(2), "top.png": picture(3)},
        )
        assert data.scan(tmp_path).pairs == 0
        report = data.scan(tmp_path, ReadOptions(captions_from="folder"))
        assert report.layout == "class folders"
        assert captions(report) == {"red cat/1.png": ("red cat",), "blue_dog/sub/2.png": ("sub",)}
        assert report.errors[0].items == ("top.png",)


class TestNothing:
    def test_no_such_folder(self, tmp_path):
        with pytest.raises(DataError, match="no such folder"):
            data.scan(tmp_path / "none")

    def test_an_empty_folder(self, tmp_path):
        report = data.scan(tmp_path)
        assert report.errors[0].text == "no picture was found"
        assert not report.usable
        with pytest.raises(DataError, match="no picture was found"):
            data.load(tmp_path, 8)

    def test_a_file_of_no_kind(self, tmp_path):
        put_all(tmp_path, {"a.png": picture(1)})
        with pytest.raises(DataError, match="neither an archive nor a metadata file"):
            data.scan(tmp_path / "a.png")

    def test_no_such_layout(self, tmp_path):
        with pytest.raises(UsageError, match="--captions-from captions: not known"):
            ReadOptions(captions_from="captions")  # pyright: ignore[reportArgumentType]

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
    def test_a_folder_that_may_not_be_read(self, tmp_path):
        (tmp_path / "shut").mkdir(mode=0)
        with pytest.raises(DataError, match="Permission denied"):
            data.scan(tmp_path)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(
        [
            "metadata.jsonl",
            "metadata.csv",
            "a.txt",
            "a.caption",
            "s.tar",
            "s.tar.gz",
            "metadata.parquet",
        ]
    ),
    st.binary(max_size=300)
    | st.text(alphabet='{}[]",:;\n\tfile_nametext\\u\0é', max_size=200).map(
        lambda text: text.encode()
    ),
)
def test_any_bytes_end_in_a_report(tmp_path, name, content):
    for old in tmp_path.iterdir():
        old.unlink()
    put_all(tmp_path, {name: content} if name.startswith("s.") else {name: content, "a.png": ONE})
    report = data.scan(tmp_path)
    json.dumps(report.to_dict(), ensure_ascii=False).encode()
    assert report.usable == (report.pairs > 0 and report.bad_share <= 0.5)


def test_a_report_survives_json(tmp_path):
    put_all(tmp_path, {"a.png": picture(1), "a.txt": "a", "b.png": picture(2)})
    report = data.scan(tmp_path)
    again = DataReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.to_dict() == report.to_dict()
    assert again.problems == report.problems
