"""Our tar reader against the standard library's, and against hostile and cut streams."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_cli.data.tar import BLOCK, Ending, Member, Skipped, members

MAX = 1 << 20


def packed(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def walk(data: bytes, known: bool = True) -> list[Member | Skipped | Ending]:
    return list(members(io.BytesIO(data), MAX, len(data) if known else -1))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_agrees_with_tarfile(format):
    names = ["a.png", "d/e/f.txt", "x" * 99, ("y" * 40 + "/") * 4 + "z.png"]
    if format != tarfile.USTAR_FORMAT:
        names += ["é猫.png", "n" * 300 + ".png"]
    data = packed({name: name.encode() * (index * 97) for index, name in enumerate(names)}, format)
    *found, end = walk(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [Member(info.name, info.offset_data, info.size) for info in tar if info.isfile()]
    assert found == expected
    assert end == Ending(whole=True, marked=True)
    assert walk(data, known=False) == walk(data)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abc/é.", min_size=1, max_size=120).map(lambda name: "r" + name.rstrip("/")),
        st.binary(max_size=1500),
        max_size=5,
    )
)
def test_any_names_and_contents(files):
    data = packed(files)
    *found, end = walk(data)
    assert isinstance(end, Ending)
    assert end.whole
    assert {
        member.name: data[member.offset : member.offset + member.size]
        for member in found
        if isinstance(member, Member)
    } == files


def test_links_devices_pipes_and_oversize_members_are_skipped():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in {
            "l": tarfile.SYMTYPE,
            "h": tarfile.LNKTYPE,
            "c": tarfile.CHRTYPE,
            "f": tarfile.FIFOTYPE,
            "dir": tarfile.DIRTYPE,
        }.items():
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            tar.addfile(info)
        for name, size in {"big.png": MAX + 1, "ok.png": 5}.items():
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    found = walk(out.getvalue())
    assert [(one.name, one.why) for one in found if isinstance(one, Skipped)] == [
        ("l", "a link"),
        ("h", "a link"),
        ("c", "a device"),
        ("f", "a pipe"),
        ("big.png", "larger than 1 MB"),
    ]
    assert [one.name for one in found if isinstance(one, Member)] == ["ok.png"]


@pytest.mark.parametrize("known", [True, False])
def test_every_truncation_is_told(known):
    files = {f"{index}.txt": bytes(600 * index) for index in range(6)}
    data = packed(files, tarfile.USTAR_FORMAT)
    used = sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for content in files.values())
    for length in range(0, used, 37):
        *_, end = walk(data[:length], known)
        assert isinstance(end, Ending)
        assert not (end.whole and end.marked), length
    assert walk(data[: used + BLOCK])[-1] == Ending(whole=True, marked=True)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=64),
    st.lists(st.tuples(st.integers(0, 4 * BLOCK - 1), st.integers(0, 255)), max_size=8),
)
def test_any_bytes_end(tail, flips):
    data = bytearray(packed({"a.png": b"x" * 10, "b.png": b"y" * 700}) + tail)
    for at, value in flips:
        data[at] = value
    found = walk(bytes(data))
    assert isinstance(found[-1], Ending)
    assert all(one.offset + one.size <= len(data) for one in found if isinstance(one, Member))


def _with_size(field: bytes) -> bytes:
    header = bytearray(packed({"a.png": b""}, tarfile.USTAR_FORMAT)[:BLOCK])
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


@pytest.mark.parametrize(
    "field", [b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"77777777777\0", b"abcdefghijk\0"]
)
def test_absurd_sizes_end_at_once(field):
    *rest, end = walk(_with_size(field) + bytes(4 * BLOCK))
    assert isinstance(end, Ending)
    assert not end.whole or not end.marked
    assert not any(isinstance(one, Member) for one in rest)


def test_an_oversize_extended_header_is_not_read():
    header = bytearray(_with_size(b"00100000000\0"))  # 16 MB
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    found = walk(bytes(header) + bytes(1 << 24) + packed({"a.png": b"1"}))
    assert found[0] == Skipped("a.png", "an oversize header")
    assert [one.name for one in found if isinstance(one, Member)] == ["a.png"]


def test_something_else():
    assert walk(b"\x89PNG" * 200)[-1] == Ending(whole=False, marked=False, why="not a tar file")
    assert walk(b"")[-1] == Ending(whole=False, marked=False, why="an empty file")
