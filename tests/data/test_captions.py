"""Captions from texts, rows and folder names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_cli.data import captions


def test_lines():
    assert captions.lines_of("a red cat\r\n\n  a   cat \na cat\n") == ("a red cat", "a cat")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([["a red cat", "a cat"], ["a dog runs", "the dog"]], "alternatives"),
        ([["a red ball", "ball in red"]] * 3, "alternatives"),
        ([["1girl", "red hair", "smile", "outdoors"], ["cat", "table", "grey fur"]], "join"),
        ([["A cat sits on a wooden table beside a vase and", "looks out of the window."]], "join"),
        ([["The picture shows a house.", "Behind it rise mountains under snow."]], "join"),
        (
            [
                [f"A {one} child climbs.", f"The child in {one} goes up.", f"{one} stairs, a child"]
                for one in ("red", "blue", "green", "pink", "grey")
            ],
            "alternatives",
        ),
        ([["only one"]], "alternatives"),
        ([], "alternatives"),
    ],
)
def test_what_several_lines_are(files, expected):
    assert captions.what_lines_are(files) == expected


def test_lines_read_as_asked_for():
    assert captions.from_lines(["a cat", "a dog"], "alternatives") == ("a cat", "a dog")
    assert captions.from_lines(["a cat", "a dog"], "first") == ("a cat",)
    assert captions.from_lines(["cat,", "red", "big"], "join") == ("cat, red, big",)
    assert captions.from_lines(["A cat sits here now", "and looks."], "join") == (
        "A cat sits here now and looks.",
    )


@pytest.mark.parametrize(
    ("row", "key", "expected"),
    [
        ({"text": "a cat"}, None, ("a cat",)),
        ({"caption": "a cat", "text": "other"}, None, ("a cat",)),
        ({"caption": "", "text": "other"}, None, ("other",)),
        ({"prompt": ["a", "b", 3, None]}, None, ("a", "b", "3")),
        ({"Label": 7}, None, ("7",)),
        ({"TEXT": 2.5}, None, ("2.5",)),
        ({"description": "a"}, None, ("a",)),
        ({"caption": "a", "tags": ["b", "c"]}, None, ("a",)),
        ({"tags": ["b", "c"]}, None, ("b, c",)),
        ({"sentences": [{"raw": "a cat"}, {"raw": "cat"}]}, None, ("a cat", "cat")),
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
    json.dumps(captions.attributes_of({"k": value}))


def test_lone_surrogates_from_json_are_replaced():
    row = captions.json_value(b'{"text": "a \\ud800 cat"}')
    assert isinstance(row, dict)
    assert captions.from_row(row) == ("a ? cat",)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
)
def test_json_never_raises(text):
    assert captions.json_value(text) is None


def test_attributes_are_short_texts():
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
    found = captions.attributes_of(row, ["file_name"])
    assert found == {"style": "flat", "n": "3", "ok": "true", "long": "x" * 500}
