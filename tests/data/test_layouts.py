"""Every form in which people have captioned pictures, and how many pictures each must give."""

from __future__ import annotations

import io
import re
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from t2i_cli import data
from t2i_cli.data import ReadOptions
from t2i_cli.data.report import DataReport
from t2i_cli.errors import DataError
from tests import folders

PAGE = Path(__file__).parent.parent.parent / "docs" / "data.md"


def read(case: folders.Case, path: Path) -> DataReport:
    return data.scan(path, ReadOptions(**case.options))


@pytest.mark.parametrize("name", folders.CASES)
def test_every_form_gives_its_pictures(name: str, tmp_path: Path):
    case = folders.CASES[name]
    path = case.build(tmp_path / name)
    report = read(case, path)
    assert report.pairs == case.pictures, [problem.text for problem in report.problems]
    assert report.usable
    assert report.captions == (case.captions or case.pictures)
    found = Counter[str]()
    for problem in report.problems:
        found[problem.kind] += problem.count
    assert dict(found) == case.left_out, [problem.text for problem in report.problems]
    if case.first:
        first = min(report.records, key=lambda record: record.name)
        assert first.captions == case.first
    assert report.splits == case.splits


@pytest.mark.parametrize("name", folders.CASES)
def test_what_is_read_can_be_loaded(name: str, tmp_path: Path):
    case = folders.CASES[name]
    if case.pictures > 12:
        pytest.skip("small ones show it")
    path = case.build(tmp_path / name)
    got = data.load(path, 16, ReadOptions(**case.options), cache=tmp_path / "cache")
    assert got.pixels.shape == (case.pictures, 16, 16, 4)
    assert len(set(got.hashes)) == case.pictures
    assert [list(one) for one in got.captions] == [
        list(record.captions) for record in read(case, path).records
    ]


def test_the_page_has_a_row_for_every_form():
    """docs/data.md names each layout with the tool that writes it; its last column is the case's name."""
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \| (.*) \| `(\w+)` \|$", text, re.MULTILINE)
    told = [(one.form.replace("|", "\\|"), one.tool, name) for name, one in folders.CASES.items()]
    assert rows == told


class TestArchives:
    def test_no_link_in_a_zip_is_followed(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.png", folders.png(1))
            archive.writestr("a.txt", "a")
            link = zipfile.ZipInfo("b.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        report = data.scan(tmp_path / "a.zip")
        assert report.pairs == 1
        assert [(one.kind, one.count) for one in report.problems] == [("skipped-member", 1)]
        assert "a link" in report.problems[0].items[0]

    def test_no_link_in_a_tar_is_followed(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name, content in (("a.png", folders.png(1)), ("a.txt", b"a")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("b.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        report = data.scan(tmp_path / "a.tar")
        assert report.pairs == 1
        assert [one.kind for one in report.problems] == ["skipped-member"]

    def test_a_packed_bomb_costs_no_more_than_it_says(self, tmp_path):
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", bytes(40_000_000))
            archive.writestr("a.txt", "a")
            archive.writestr("b.png", folders.png(1))
            archive.writestr("b.txt", "b")
        content = whole.getvalue()
        # the directory and the header say 100 bytes, and 40 MB are packed
        size = (40_000_000).to_bytes(4, "little")
        path = tmp_path / "a.zip"
        path.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
        report = data.scan(path)
        assert [record.name for record in report.records] == ["a.zip/b.png"]
        assert report.errors[0].items == ("a.zip/a.png: broken",)

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
    def test_a_zip_that_is_cut_off_is_named(self, tmp_path, share):
        path = folders.CASES["zip_sidecar"].build(tmp_path / "zip")
        (archive,) = [path] if path.is_file() else path.glob("*.zip")
        content = archive.read_bytes()
        archive.write_bytes(content[: int(share * len(content))])
        report = data.scan(archive)
        assert report.pairs == 0
        assert not report.usable
        assert "cut-shard" in {problem.kind for problem in report.errors}

    def test_an_encrypted_member_is_passed_over(self, tmp_path):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", folders.png(1))
            archive.writestr("a.txt", "a")
            archive.writestr("b.png", folders.png(2))
        content = bytearray(path.read_bytes())
        at = content.rindex(b"PK\x01\x02")  # the directory's entry of b.png
        content[at + 8] |= 1
        path.write_bytes(content)
        report = data.scan(path)
        assert [record.name for record in report.records] == ["a.zip/a.png"]
        assert "encrypted" in report.warnings[0].items[0]


class TestWithoutPyarrow:
    @pytest.fixture(autouse=True)
    def _without(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)

    def test_a_table_beside_shards_or_texts_stops_nothing(self, tmp_path):
        shards = folders.CASES["webdataset"].build(tmp_path / "shards")
        (shards / "00000.parquet").write_bytes(b"PAR1")
        assert data.scan(shards).pairs == 8
        folders.fill(tmp_path / "texts", 3)
        (tmp_path / "texts" / "index.parquet").write_bytes(b"PAR1")
        assert data.scan(tmp_path / "texts").pairs == 3

    def test_where_nothing_else_is_there_it_says_what_to_install(self, tmp_path):
        folders.fill(tmp_path, 3, captions=False)
        (tmp_path / "captions.parquet").write_bytes(b"PAR1")
        with pytest.raises(DataError, match="needs pyarrow") as caught:
            data.scan(tmp_path)
        assert "pip install 't2i-cli[parquet]'" in caught.value.hint


class TestChoosing:
    def test_a_metadata_file_that_matches_nothing_is_refused_though_texts_lie_there(self, tmp_path):
        folders.fill(tmp_path, 4)
        (tmp_path / "metadata.csv").write_text("file_name,text\nx.png,a\n")
        report = data.scan(tmp_path)
        assert not report.usable
        assert report.errors[0].kind == "no-match"

    def test_a_table_of_something_else_is_no_metadata(self, tmp_path):
        folders.fill(tmp_path, 4)
        (tmp_path / "losses.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
        report = data.scan(tmp_path)
        assert report.pairs == 4
        assert report.problems == ()

    def test_boxes_of_a_detector_are_no_captions(self, tmp_path):
        folders.fill(tmp_path / "images", 4, captions=False)
        (tmp_path / "labels").mkdir()
        for k in range(4):
            (tmp_path / "labels" / f"p{k}.txt").write_text(
                "0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.3 0.4\n"
            )
        assert data.scan(tmp_path).pairs == 0

    def test_a_name_that_two_files_may_be_is_refused(self, tmp_path):
        folders.fill(tmp_path / "a", 1, captions=False)
        folders.fill(tmp_path / "b", 1, captions=False)
        (tmp_path / "metadata.csv").write_text("file_name,text\np0.png,which\na/p0.png,this\n")
        report = data.scan(tmp_path)
        assert {record.name for record in report.records} == {"a/p0.png"}
        assert report.errors[0].kind == "ambiguous"

    def test_absolute_paths_inside_are_taken_and_others_by_a_unique_name(self, tmp_path):
        folders.fill(tmp_path / "set", 3, captions=False)
        rows = [
            f"{tmp_path}/set/p0.png,inside",
            "C:\\\\old\\\\disk\\\\p1.png,by its name",
            "/somewhere/else.png,refused",
        ]
        (tmp_path / "set" / "metadata.csv").write_text("file_name,text\n" + "\n".join(rows) + "\n")
        report = data.scan(tmp_path / "set")
        assert {record.name for record in report.records} == {"p0.png", "p1.png"}
        (bad,) = (one for one in report.errors if one.kind == "bad-path")
        assert "no file here is called so" in bad.items[0]

    def test_the_lines_of_a_file_are_read_as_asked_for(self, tmp_path):
        folders.fill(tmp_path, 1)
        (tmp_path / "p0.txt").write_text("a red cat\na cat\n")
        assert data.scan(tmp_path).captions == 2
        for how, expected in (
            ("join", ("a red cat, a cat",)),
            ("first", ("a red cat",)),
            ("alternatives", ("a red cat", "a cat")),
        ):
            report = data.scan(tmp_path, ReadOptions(caption_lines=how))
            assert report.records[0].captions == expected
            assert len(report.notes) == 1
            assert "chosen" not in report.notes[0]

    @pytest.mark.parametrize(
        ("page", "text"),
        [
            ("cp1252", "grüner Käse"),
            ("cp1250", "żółty kot na płocie"),
            ("cp1251", "красный кот на заборе"),
            ("koi8_r", "красный кот на заборе"),
            ("cp1253", "μια κόκκινη γάτα"),
            ("cp932", "赤い猫が座っている"),
            ("euc_jp", "赤い猫が座っている"),
            ("gb18030", "一只红色的猫坐在桌子上"),
            ("big5", "一隻紅色的貓坐在桌子上"),
            ("cp949", "빨간 고양이가 앉아 있다"),
            ("cp850", "grüner Käse, weiß"),
            ("utf-16", "grün und 猫"),
            ("utf-16-le", "a green cat"),
            ("utf-16-be", "a green cat"),
            ("utf-8-sig", "grün"),
        ],
    )
    def test_texts_in_other_encodings_are_read_and_reported(self, tmp_path, page, text):
        folders.fill(tmp_path, 2)
        for k in range(2):
            (tmp_path / f"p{k}.txt").write_bytes(text.encode(page))
        report = data.scan(tmp_path)
        assert report.usable
        assert {record.captions for record in report.records} == {(text,)}
        kinds = [problem.kind for problem in report.problems]
        assert kinds == ([] if page == "utf-8-sig" else ["converted"])
