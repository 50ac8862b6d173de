"""examples/icons/build_data.py: its rules, on a few records of the shards that the release was trained on."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
FREE = {"MIT", "Apache-2.0", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "Public-Domain"}


@pytest.fixture(scope="module")
def build():
    """The builder, which is a script and in no package, with words known as inflect and wordfreq know them."""
    spec = importlib.util.spec_from_file_location(
        "build_data", ROOT / "examples/icons/build_data.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_data"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    module.singular = {"eggs": "egg", "apples": "apple", "grapes": "grape"}.get
    rare = {"instructment", "marsupial"}
    module.frequency = lambda word, language="en": 2.0 if word in rare else 4.0
    yield module
    del sys.modules["build_data"]


@pytest.fixture(scope="module")
def emoji(build):
    entries = {
        "1f1e6-1f1eb": build.Entry(
            "flag: Afghanistan",
            9,
            tags=["AF", "flag"],
            keywords=["flag_afghanistan", "af", "flag", "nation", "country", "banner"],
            shortcodes=["flag_afghanistan", "afghanistan", "flag-af", "flag_af", "af"],
        ),
        "1f428": build.Entry(
            "koala",
            3,
            tags=["animal", "australia", "bear", "down", "face", "marsupial", "under"],
            keywords=["koala", "animal", "nature", "bear", "face", "marsupial"],
            shortcodes=["koala", "koala_face"],
        ),
        "1fa95": build.Entry(
            "banjo",
            7,
            tags=["music", "stringed"],
            keywords=["banjo", "music", "instructment", "activity", "entertainment", "instrument"],
            shortcodes=["banjo"],
        ),
        "1f475": build.Entry(
            "old woman",
            1,
            tags=["adult", "elderly", "grandma", "grandmother", "granny", "lady", "old", "wise"],
            keywords=["old_woman", "human", "female"],
            shortcodes=["old_woman", "older_woman", "older_woman", "grandma", "old_woman"],
        ),
        "1f34e": build.Entry("red apple", 4, tags=["apple"], shortcodes=["red_apple", "apple"]),
    }
    known = build.Emoji(entries)
    known.learn([{"1F428": "koala", "1F1E6-1F1EB": "flag-afghanistan"}])
    return known


def looks(build, color, **shares):
    """Looks with a colour and shares of black, white and gray."""
    palette = {**shares, **{part: 0.4 for part in (color or "").split(" and ") if part}}
    gray = {name: shares.get(name, 0.0) for name in ("black", "white", "gray")}
    return build.Looks(
        color=color,
        palette=palette,
        **gray,
        solid=0.5,
        cover=0.5,
        edge=0.5,
        contrast=0.5,
        signs=np.zeros(32, np.uint8),
        thumbnail=np.zeros(432, np.float32),
    )


RECORDS = [  # source, key, raw name, emoji, tone, colour, shares -> as it stands in the shards
    (
        ("circleflags", "af", "af", "1f1e6-1f1eb", None),
        ("red", {}),
        '{"captions":["flag of Afghanistan","flag afghanistan","afghanistan","flag af","flag of Afghanistan, '
        'round flag icon","flag of Afghanistan, flag, flag afghanistan, nation, country"],"concept":"flag of '
        'afghanistan","style":"round-flag","category":"flags","color":"red","source":"circleflags","license":'
        '"MIT","author":"HatScripts circle-flags","split":"train"}',
    ),
    (
        ("emojione", "koala", "koala", "1f428", None),
        ("gray", {}),
        '{"captions":["a gray koala","a koala","koala","a gray koala face","a gray koala, emojione emoji",'
        '"koala, australia, bear, down, under"],"concept":"koala","style":"emojione","category":"animals & '
        'nature","color":"gray","source":"emojione","license":"CC-BY-4.0","author":"Emoji One v2 (Ranks.com '
        'Inc.)","split":"train"}',
    ),
    (
        ("noto", "banjo", "banjo", "1fa95", None),
        ("white and brown", {}),
        '{"captions":["a white and brown banjo","a banjo","banjo","a white and brown banjo, noto emoji",'
        '"banjo, music, stringed, activity, entertainment"],"concept":"banjo","style":"noto","category":'
        '"objects","color":"white and brown","source":"noto","license":"Apache-2.0","author":"Google Noto '
        'Emoji","split":"train"}',
    ),
    (
        ("fluent3d", "1f475-1f3fb", "1f475-1f3fb", "1f475", "light"),
        (None, {}),
        '{"captions":["an old woman with light skin tone","old woman with light skin tone","an older woman '
        'with light skin tone","a grandma with light skin tone","an old woman with light skin tone, 3d icon",'
        '"old woman with light skin tone, elderly, grandma, grandmother, granny"],"concept":"old woman",'
        '"style":"3d","category":"people","source":"fluent3d","license":"MIT","author":"Microsoft Fluent '
        'Emoji (repackaged by LobeHub)","split":"val_style"}',
    ),
    (
        ("gameicons", "helmet", "helmet", None, None),
        ("black", {"black": 1.0}),
        '{"captions":["a black silhouette of a helmet","a black helmet","a helmet","helmet"],"concept":'
        '"helmet","style":"silhouette","category":"objects","color":"black","source":"gameicons","license":'
        '"CC-BY-3.0","author":"Game-icons.net contributors (Lorc, Delapouite & others)","split":"train"}',
    ),
    (
        ("kameleon", "education-globe-duo", "education globe", None, None),
        ("white", {}),
        '{"captions":["an education globe on a blue round badge","an education globe","education globe"],'
        '"concept":"education globe","style":"badge","category":"objects","color":"white","source":'
        '"kameleon","license":"CC-BY-4.0","author":"Streamline Kameleon Color","split":"train"}',
    ),
]


@pytest.mark.parametrize(("given", "seen", "expected"), RECORDS, ids=[r[0][0] for r in RECORDS])
def test_a_record_comes_out_as_in_the_release(build, emoji, given, seen, expected):
    source, key, raw, code, tone = given
    one = build.Drawing(source, key=key, raw=raw, emoji=code, tone=tone)
    assert build.choose([one], emoji) == [one]
    one.looks = looks(build, seen[0], **seen[1])
    build.describe(one, emoji)
    assert json.loads(build.record(one)) == json.loads(expected)
    assert build.record(one).decode() == expected


@pytest.mark.parametrize(
    ("name", "color", "expected"),
    [
        ("apple", "red", "a red apple"),
        ("apple", "orange", "an orange apple"),
        ("hourglass", None, "an hourglass"),
        ("unicorn", None, "a unicorn"),
        ("bread", "brown", "brown bread"),
        ("slice of bread", None, "a slice of bread"),
        ("grapes", "purple", "purple grapes"),
        ("glasses", None, "glasses"),
        ("cactus", "green", "a green cactus"),
        ("two swords", "gray", "two gray swords"),
        ("Santa Claus", None, "Santa Claus"),
        ("T-Rex", "green", "a green T-Rex"),
    ],
)
def test_a_name_takes_its_article_and_its_colour(build, name, color, expected):
    assert build.phrase(name, color) == expected


def test_names_that_are_not_for_everyone_or_are_brands_are_left_out(build, emoji):
    def taken(name):
        one = build.Drawing("tango", key="a", raw=name, category="objects")
        return build.choose([one], emoji) == [one]

    assert taken("teapot")
    assert not taken("pistol")
    assert not taken("linux penguin")
    assert not taken("company logo")
    assert not taken("letter a")


def test_a_concept_is_the_same_for_every_way_to_say_it(build):
    assert build.concept_of("The Apples") == build.concept_of("an apple (fruit)") == "apple"
    assert build.concept_of("glasses") == "glasses"
    assert build.concept_of("cactus") == "cactus"


def test_titles_of_clip_art_become_names(build):
    assert build.clip_art_title("GrassHopper_02") == "grasshopper"
    assert build.clip_art_title("Simple tree (b and w)") == "tree"
    assert build.translate("gatto e cane") == "cat and dog"


def test_files_of_tiles_become_names(build):
    assert build.tile_name("mon/undead/skeletons", "skeleton_centaur_2", "") == "centaur skeleton"
    assert build.tile_name("item/potion", "fizzy", "potion") == "fizzy potion"
    assert build.tile_name("dngn/statues", "statue_elephant", "") == "statue of an elephant"
    assert build.tile_name("item/gold", "10", "") == "pile of gold coins"


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((220, 30, 30), "red"),
        ((255, 140, 0), "orange"),
        ((250, 220, 40), "yellow"),
        ((40, 160, 60), "green"),
        ((0, 150, 136), "teal"),
        ((40, 90, 220), "blue"),
        ((130, 60, 200), "purple"),
        ((255, 150, 190), "pink"),
        ((120, 70, 30), "brown"),
        ((245, 222, 179), "beige"),
        ((10, 10, 10), "black"),
        ((128, 128, 128), "gray"),
        ((250, 250, 250), "white"),
    ],
)
def test_colours_are_called_what_people_call_them(build, rgb, expected):
    assert build.COLORS[build.classify(np.array([[rgb]], np.uint8))[0, 0]] == expected


def canvas(build, *boxes):
    """Boxes of colours on a transparent canvas."""
    image = Image.new("RGBA", (build.MEASURED, build.MEASURED))
    for box, color in boxes:
        ImageDraw.Draw(image).rectangle(box, fill=color)
    return image


def test_the_colour_of_a_drawing_is_measured(build):
    def color(*boxes):
        return build.measure(canvas(build, *boxes), outline=0.4).color

    whole, left, right = (20, 20, 107, 107), (20, 20, 63, 107), (64, 20, 107, 107)
    assert color((whole, "red")) == "red"
    assert color((left, "red"), (right, "white")) in ("red and white", "white and red")
    framed = color((whole, "black"), ((30, 30, 97, 97), "yellow"))
    assert framed == "yellow"  # outlines do not count
    assert color((whole, "black"), ((60, 60, 67, 67), "yellow")) == "black"
    fills = ("red", "lime", "blue", "yellow", "purple")
    stripes = [((20, 20 + 16 * i, 107, 35 + 16 * i), fill) for i, fill in enumerate(fills)]
    assert color(*stripes) == "colorful"
    gray = ((20, 100, 107, 107), "gray")
    assert color(*stripes[:3], stripes[4], gray) == "colorful"
    assert color(*stripes[:2], (stripes[2][0], "gray"), (stripes[3][0], "white")) is None


def test_what_can_hardly_be_seen_is_refused(build):
    def why(*boxes, source="noto", name="thing"):
        one = build.Drawing(source, key="a", raw=name, name=name)
        one.looks = build.measure(canvas(build, *boxes), outline=0.4)
        return build.refused(one)

    assert why(((20, 20, 107, 107), "red")) is None
    assert why(((20, 20, 25, 25), "red")) == "tiny"
    assert why(((20, 20, 107, 107), "white")) == "invisible on white"
    everything = ((0, 0, 127, 127), "red")
    assert why(everything, source="openclipart") == "a scene that fills its frame"
    assert why(everything, source="openclipart", name="flag") is None


def test_of_two_drawings_alike_that_of_the_earlier_source_stays(build):
    def drawing(source, fill):
        one = build.Drawing(source, key=fill, raw=fill)
        one.looks = build.measure(canvas(build, ((30, 20, 90, 107), fill)), outline=0.4)
        return one

    late, early, other = drawing("twemoji", "red"), drawing("noto", "red"), drawing("noto", "blue")
    assert build.without_duplicates([late, other, early]) == [other, early]


def test_halving_weighs_colour_by_alpha(build):
    pixels = np.zeros((2, 4, 4), np.uint8)
    pixels[:, :2] = [[[255, 0, 0, 255], [0, 0, 255, 0]], [[255, 0, 0, 255], [0, 0, 255, 0]]]
    assert build.halve(pixels).tolist() == [[[255, 0, 0, 128], [0, 0, 0, 0]]]


def test_a_drawing_is_centred_and_comes_back_as_it_was(build):
    tile = Image.new("RGBA", (32, 16), (10, 200, 30, 255))
    with Image.open(io.BytesIO(build.finish(tile, tile=True))) as opened:
        pixels = np.asarray(opened.convert("RGBA"))
    assert pixels.shape == (64, 64, 4)
    assert (pixels[16:48] == [10, 200, 30, 255]).all()
    assert not pixels[:16, :, 3].any()
    assert not pixels[48:, :, 3].any()


HELD_OUT = {"concepts": ["computer mouse"], "styles": {"apple": ["noto-v1 notov1"]}}


@pytest.mark.parametrize(
    ("texts", "where", "expected"),
    [
        (["apple"], ("apple", "noto", "noto"), "train"),
        (["apple"], ("apple", "noto-v1", "notov1"), "val_style"),
        (["apple"], ("apple", "noto-v1", "noto"), "train"),
        (["computer mouse"], ("computer mouse", "noto", "noto"), "val_concept"),
        (["x", "mouse of a computer"], ("x", "noto", "noto"), "val_concept"),
        (["mouse"], ("mouse", "noto", "noto"), "train"),
    ],
)
def test_the_split_is_that_of_the_list(build, texts, where, expected):
    assert build.split_of(texts, where, HELD_OUT) == expected


def test_captions_outside_the_held_out_part_do_not_tell_of_it(build):
    one = build.Drawing("noto", key="a", raw="a", concept="apple", style="noto")
    one.captions = ["an apple", "apple", "fruit", "a mouse on a computer", "a red apple"]
    build.assign(one, HELD_OUT)
    assert (one.split, one.captions) == ("train", ["an apple", "apple", "fruit", "a red apple"])


def test_shards_are_filled_in_order_and_never_too_far(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SHARD", 4096)
    files = [(f"key-{i}", bytes(600), b"{}") for i in range(5)]  # 2560 bytes with their headers
    (tmp_path / "icons64-009.tar").write_bytes(b"of an earlier build")
    assert build.write_shards(files, tmp_path) == 5
    names = []
    for path in sorted(tmp_path.iterdir()):
        with tarfile.open(path) as shard:
            names += shard.getnames()
    assert names == [f"key-{i}.{ending}" for i in range(5) for ending in ("webp", "json")]


def test_every_source_is_free_pinned_and_credited(build):
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    sources = build.table("sources")
    for name, said in sources["drawings"].items():
        assert said["license"] in FREE, name
        version = re.split("[@=]", said["package"])[-1]
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        assert version in row, name
        assert f" {said['license']} " in row, name
        assert said["credit"] in row, name
    others = sources["names"]["packages"] + sources["python"]["packages"]
    assert all(re.search(r"[^@=][@=]=?\d", package) for package in others)


def test_the_held_out_list_is_that_of_the_release(build):
    held_out = build.table("held_out")
    assert len(held_out["concepts"]) == 100
    assert "computer mouse" in held_out["concepts"]
    assert held_out["styles"]["old woman"] == ["3d fluent3d"]
