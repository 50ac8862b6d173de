"""The blind naming test: what counts as named, what the sheets show, what the key hides, what answers are refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import blind_naming as naming
from benchmarks.naming_prompts import FINAL, TUNE
from t2i_cli import data
from t2i_cli.images import encode
from tests.toy_weights import save_toy


@pytest.mark.parametrize(
    ("guess", "accepted"),
    [
        ("bike", "a bike"), ("an old red bicycle", "a bicycle"), ("Bicycles", "a bicycle"), ("berries", "a berry"),
        ("truck", "a delivery truck"), ("tea pot", "a teapot"), ("teapot", "tea pot"), ("café", "a cafe"),
        ("orange", "an orange"), ("mug of coffee", "coffee"), ("hotdog", "a hot dog"), ("dog head", "dog face"),
        ("mailbox", "closed mailbox with raised flag"), ("scissors", "a pair of scissors"), ("octopus", "an octopus"),
        ("watches", "a watch"), ("bus", "a yellow bus"), ("buses", "a yellow bus"), ("blue orange", "orange"),
        ("mice", "a mouse"),
    ],
)  # fmt: skip
def test_a_generous_reading(guess: str, accepted: str) -> None:
    assert naming.matches(guess, accepted)


@pytest.mark.parametrize(
    ("guess", "accepted"),
    [
        ("hot dog", "a dog"), ("computer mouse", "a mouse"), ("pineapple", "an apple"), ("catapult", "a cat"),
        ("", "a dog"), ("a", "a dog"), ("red", "a red car"), ("printer", "a robot"),
        ("raised flag", "mailbox with flag"), ("a picture", "a picture book"), ("car", "a cable car"),
    ],
)  # fmt: skip
def test_another_thing_is_not_named(guess: str, accepted: str) -> None:
    assert not naming.matches(guess, accepted)


def test_the_second_guess_counts_and_any_accepted_name() -> None:
    assert naming.is_named(["printer", "burger"], ["a hamburger", "burger"])
    assert not naming.is_named(["printer", ""], ["a hamburger", "burger"])


def test_every_prompt_names_itself_and_the_parts_share_no_thing() -> None:
    assert (len(FINAL), len(TUNE)) == (50, 25)
    for prompts, coloured in ((FINAL, 10), (TUNE, 5)):
        assert (
            sum(bool({*prompt.split()} & naming.COLOUR_WORDS - {"light"}) for prompt in prompts)
            == coloured
        )
        for prompt, names in prompts.items():
            assert naming.matches(prompt, prompt), prompt
            assert all(naming.is_named([name], names) for name in names)
    things = {
        part: {tuple(naming.words_of(prompt)) for prompt in part}
        for part in (tuple(FINAL), tuple(TUNE))
    }
    final, tune = things.values()
    assert (len(final), len(tune)) == (50, 25)
    assert not final & tune


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sheets of a toy model: 12 prompts, and as many real pictures as the tiny data holds out."""
    source = tmp_path / "data"
    source.mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for i in range(24):
        pixels = draw.integers(0, 256, (64, 64, 4)).astype(np.uint8)
        (source / f"{i}.png").write_bytes(encode(pixels))
        style, split = ("fluent", "flat")[i % 2], ("train", "val_style")[i >= 8]
        rows.append({"file_name": f"{i}.png", "text": f"a thing{i}", "concept": f"thing{i}", "style": style,
            "split": split, "category": "symbols" if i == 23 else "objects"})  # fmt: skip
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.setitem(naming.PARTS, "final", dict(list(FINAL.items())[-12:]))
    monkeypatch.setitem(naming.PARTS, "tune", dict(list(TUNE.items())[:12]))
    save_toy(tmp_path / "toy.safetensors")
    return tmp_path


def test_sheets_hide_what_the_key_holds(drawn: Path) -> None:
    toy, where, out = str(drawn / "toy.safetensors"), drawn / "data", drawn / "out"
    key = naming.draw(toy, out, where, seed=2, options={"truncation": 0.5})
    assert key == json.loads((out / "key.json").read_text("utf-8"))
    items = key["items"]
    kinds = [item["kind"] for item in items]
    assert [item["number"] for item in items] == [*range(1, len(items) + 1)]
    assert kinds.count("drawn") == 12
    assert 4 <= kinds.count("real") <= 12
    assert kinds != sorted(kinds)  # mixed
    assert sum(item.get("colour", False) for item in items) == 10
    sheets = sorted((out / "sheets").iterdir())
    assert len(sheets) == -(-len(items) // 10)
    for path in sheets:
        with Image.open(path) as page:
            assert not page.info  # no prompt, no seed
            assert page.size == (24 + 5 * 280, 24 + 2 * 320) or path == sheets[-1]
    found = [path.name for path in out.iterdir()]
    assert sorted(found) == ["answers.csv", "key.json", "sheets"]
    lines = list(csv.DictReader((out / "answers.csv").read_text().splitlines()))
    assert len(lines) == len(items)
    assert not any(row["name"] for row in lines)
    with pytest.raises(SystemExit, match="already there"):
        naming.draw(toy, out, where)


def test_a_seed_repeats_and_another_differs(drawn: Path) -> None:
    toy, where = str(drawn / "toy.safetensors"), drawn / "data"
    one, same, other = (
        naming.draw(toy, drawn / name, where, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == same
    assert [x["prompt"] for x in one["items"]] != [x["prompt"] for x in other["items"]]
    first = [(drawn / name / "sheets" / "sheet-01.png").read_bytes() for name in "abc"]
    assert first[0] == first[1] != first[2]


def test_real_drawings_are_held_out_everyday_things_the_style_first(drawn: Path) -> None:
    pictures = data.load(drawn / "data", 64)
    final, tune = (naming.real_rows(pictures, 50, part, 0, "fluent") for part in ("final", "tune"))
    for rows in (final, tune):
        assert rows
        assert all(pictures.splits[row] == "val_style" for row in rows)
        assert all(pictures.attributes[row]["category"] == "objects" for row in rows)
        styles = [pictures.attributes[row]["style"] for row in rows]
        assert styles == sorted(styles, reverse=True)  # fluent, then flat
    assert not {*final} & {*tune}
    assert len(final) + len(tune) == 15  # all of them, each concept once
    names = naming.real_names(pictures, final[0])
    assert names[0] == pictures.attributes[final[0]]["concept"]


def test_a_picture_is_256_px_on_light_paper() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, 32:] = (200, 0, 0, 255)
    page = naming.sheet([pixels] * 3, 7)
    assert page.shape == (24 + 320, 24 + 5 * 280, 3)
    body = page[64:320, 24:280]
    assert (body[:, :128] == naming.PAPER).all()
    assert (body[:, 128:] == (200, 0, 0)).all()
    assert (page[24:60, 24:100] < 100).any()  # its number


KEY: dict[str, Any] = {
    "items": [
        {"number": 1, "kind": "drawn", "prompt": "a blue dog", "accepted": ["a blue dog", "puppy"], "colour": True},
        {"number": 2, "kind": "drawn", "prompt": "a robot", "accepted": ["a robot"], "colour": False},
        {"number": 3, "kind": "real", "prompt": "mouse", "accepted": ["mouse"]},
    ]
}  # fmt: skip


def test_a_score_by_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    anna, ben = tmp_path / "anna.csv", tmp_path / "ben.csv"
    anna.write_text(
        'number,name,second,quality\n3,mouse,rat,3\n1,cat,"a puppy, sitting",1\n2,printer,,0\n'
    )
    ben.write_text("\ufeffnumber,name,second,quality\n1, ,,0\n2,robot,,2\n3,hamster,,2\n", "utf-8")
    naming.main(["score", str(tmp_path / "key.json"), str(anna), str(ben), "--missed"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "reader": "anna",
        "drawn": {"pictures": 2, "named": 1, "quality": 0.5},
        "drawn, with a colour": {"pictures": 1, "named": 1, "quality": 1.0},
        "real": {"pictures": 1, "named": 1, "quality": 3.0},
        "missed": [{"number": 2, "kind": "drawn", "prompt": "a robot", "read": ["printer", ""]}],
    }
    assert second["drawn"] == {"pictures": 2, "named": 1, "quality": 1.0}
    assert second["real"] == {"pictures": 1, "named": 0, "quality": 2.0}


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("number,name,second\n1,a,b\n", "first line must be"),
        ("number,name,second,quality\n1,a,,3\n1,b,,3\n", "line 3: number '1'"),
        ("number,name,second,quality\n4,a,,3\n", "number '4'"),
        ("number,name,second,quality\n1,a,,4\n", "quality '4'"),
        ("number,name,second,quality\n1,a,,\n", "quality ''"),
        ("number,name,second,quality\n1,a,,3\n", "no answer for 2, 3"),
    ],
)
def test_answers_that_are_not_whole_are_refused(tmp_path: Path, text: str, refusal: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(text)
    with pytest.raises(SystemExit, match=refusal):
        naming.read_answers(path, 3)
