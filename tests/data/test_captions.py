"""Captions from texts, rows and folder names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_cli.data import captions


def test_lines_are_alternatives():
    assert captions.from_text("\ufeffa red cat\r\n\n  a   cat \na cat\n".encode()) == (
        "a red cat",
        "a cat",
    )


def test_not_utf8():
    with pytest.raises(ValueError, match="utf-8"):
        captions.from_text(b"\xff\xfea\0")


@pytest.mark.parametrize(
    ("row", "key", "expected"),
    [
        ({"text": "a cat"}, None, ("a cat",)),
        ({"caption": "a cat", "text": "other"}, None, ("a cat",)),
        ({"caption": "", "text": "other"}, None, ("other",)),
        ({"prompt": ["a", "b", 3, None]}, None, ("a", "b")),
        ({"captions": '["a", "b"]'}, None, ("a", "b")),
        ({"text": "[a cat] in brackets"}, None, ("[a cat] in brackets",)),
        ({"text": "a", "alt": "b"}, "alt", ("b",)),
        ({"text": "a"}, "alt", ()),
        ({"text": {"en": "a"}}, None, ()),
        ({}, None, ()),
    ],
)
def test_rows(row, key, expected):
    assert captions.from_row(row, key) == expected


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_gives_clean_captions(value):
    for caption in captions.from_row({"text": value}):
        assert caption == " ".join(caption.split()) != ""
        caption.encode()  # no lone surrogate is left
    json.dumps(captions.meta_of({"k": value}))


def test_lone_surrogates_from_json_are_replaced():
    row = captions.json_object(b'{"text": "a \\ud800 cat"}')
    assert row is not None
    assert captions.from_row(row) == ("a ? cat",)


@pytest.mark.parametrize(
    "text", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
)
def test_json_object_never_raises(text):
    assert captions.json_object(text) is None


def test_meta_keeps_short_plain_values():
    row = {
        "text": "a",
        "split": "train",
        "style": "flat",
        "n": 3,
        "ok": True,
        "list": [1],
        "long": "x" * 900,
        "file_name": "a.png",
    }
    meta = captions.meta_of(row, ["file_name"])
    assert meta == {"style": "flat", "n": 3, "ok": True, "long": "x" * 500}
