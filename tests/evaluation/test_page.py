"""The page: whole, escaped, and without anything from elsewhere."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser

import numpy as np

from t2i_cli.evaluation import page
from t2i_cli.images import decode


class Balance(HTMLParser):
    """Notes tags that are opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_balanced_and_loads_nothing() -> None:
    picture = np.zeros((4, 4, 4), np.uint8)
    text = page.page(
        "Title",
        [
            page.heading("Part"),
            page.paragraph("words", dim=True),
            page.table(["a", "b"], [["1", ("2", "±1")], ["3", "a long text in a cell"]]),
            page.cards([page.Card([picture, picture], "two")]),
            page.curve({"loss": [(0, 1), (1, 0.5), (2, 0.25)]}),
        ],
    )
    parser = Balance()
    parser.feed(text.replace("<polyline points", "<polyline points").replace("/>", ">"))
    assert parser.open == []
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "@import" not in text
    assert "url(" not in text


def test_text_of_strangers_is_escaped_and_made_visible() -> None:
    text = page.page("<b>", [page.paragraph("<script>alert(1)</script>\x1b[31m")])
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    card = page.cards([page.Card([np.zeros((2, 2, 3), np.uint8)], '"><img onerror=x>')])
    assert card.count("<img") == 1
    assert 'alt="&quot;&gt;' in card


def test_pictures_are_in_the_page_pixel_for_pixel() -> None:
    picture = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    found = re.search(r"base64,([^\"]+)", page.cards([page.Card([picture], "x")]))
    assert found
    assert (decode(base64.b64decode(found[1]), name="x")[..., :3] == picture).all()


def test_a_plot_leaves_out_what_is_not_finite() -> None:
    drawn = page.curve({"loss": [(0, 1), (1, math.nan), (2, 3)], "one": [(0, 1)], "none": []})
    assert drawn.count("<svg") == 1
    assert "nan" not in drawn
    assert 'points="0.0,94.0 300.0,6.0"' in drawn
