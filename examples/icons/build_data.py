"""Make the shards that the release trains on: `python build_data.py PACKAGES OUT` (build_data.sh fetches PACKAGES).

PACKAGES holds the packages that words/sources.toml names, unpacked: npm/node_modules/, deb/NAME/ and src/NAME/. OUT
gets icons64-NNN.tar: drawings of 64 by 64 pixels in 21 styles, each as KEY.webp (RGBA, lossless) and KEY.json
(captions, concept, style, category, color, source, license, author, split). PACKAGES/drawn/ keeps what was rendered,
so that a build that was stopped goes on from there.

A drawing goes through these steps, a section of this file each:

1. collect: what the packages hold, under the names that the packages give;
2. name: as a person would say it, or the drawing is left out (brand marks, letters, interface icons, arms ...);
3. draw: rendered, cut to its edges, centred;
4. look: its colours, measured, and what tells that two drawings are alike;
5. caption: from the name, its colour, its other names and its style;
6. split: words/held_out.toml says what is held out. It was drawn by lot once and is a list since, so that a figure
   measured on held-out drawings keeps its meaning when a package brings one drawing more.

Names and word lists are in words/. The rules came from looking at what they made, again and again: where one looks odd,
some drawing was odd.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import multiprocessing
import os
import re
import sys
import tarfile
import tomllib
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WORDS = Path(__file__).resolve().parent / "words"
SIDE = 64  # pixels of a finished drawing
MEASURED = 128  # pixels at which it is drawn and looked at; then two by two become one
MARGIN = 5  # of MEASURED, each side
SHARD = 20_000_000  # bytes
TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
CATEGORIES = (  # by emojibase's number of a group
    "smileys",
    "people",
    "component",
    "animals & nature",
    "food & drink",
    "travel & places",
    "activities",
    "objects",
    "symbols",
    "flags",
)
SHELVES = {  # categories of IconPark that are not simply objects
    "Foods": "food & drink",
    "Animals": "animals & nature",
    "Weather": "travel & places",
    "Travel": "travel & places",
    "Sports": "activities",
    "Music": "activities",
    "Peoples": "people",
    "Emoji": "smileys",
}

File = tuple[str, bytes, bytes]  # key, picture, record


@dataclass
class Looks:
    """What was measured on a drawing. Shares are of its visible pixels, `cover` and `edge` of the canvas."""

    color: str | None  # "red", "red and white", "colorful", or nothing that one would say
    palette: dict[str, float]  # share by colour, those above 0.03
    black: float
    white: float
    gray: float
    solid: float  # what is left when three pixels are taken off every edge
    cover: float
    edge: (
        float  # canvas inside the margin that is covered: 1 for a scene without a shape of its own
    )
    contrast: float  # canvas that can be told from white
    signs: np.ndarray  # uint8 (32,): where it gets brighter from left to right, 16 by 16 bits
    thumbnail: np.ndarray  # float32 (432,): 12 by 12 RGB on white


@dataclass
class Drawing:
    """One drawing on its way from a package into a shard."""

    source: str  # a key of words/sources.toml
    key: str  # what the package calls it
    raw: str  # the same in words
    emoji: str | None = None  # the code points of the emoji that it draws, "1f468-200d-1f33e"
    tone: str | None = None  # of skin
    file: str = ""  # where it is, unless it is in an icon set
    category: str = ""
    shelf: str = ""  # category in its package
    keywords: list[str] = field(default_factory=list)
    author: str = ""
    monochrome: bool = False  # its title says so
    name: str = ""
    style: str = ""
    concept: str = ""
    aliases: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    split: str = ""
    looks: Looks | None = None

    @property
    def id(self) -> str:
        """Its key in the shards."""
        return f"{self.source}-{slug(self.key.replace('_', '-'))}"[:90]

    @property
    def seen(self) -> Looks:
        """Its looks, once it was looked at."""
        assert self.looks is not None, self.id
        return self.looks


# ---------------------------------------------------------------------------------------------- words


@functools.cache
def table(name: str) -> dict[str, Any]:
    """The file words/NAME.toml."""
    return tomllib.loads((WORDS / f"{name}.toml").read_text(encoding="utf-8"))


@functools.cache
def words(name: str) -> frozenset[str]:
    """A list of words/lists.toml."""
    return frozenset(table("lists")[name].split())


@functools.cache
def phrases(name: str) -> frozenset[str]:
    """A list of words/lists.toml whose underscores stand for spaces."""
    return frozenset(word.replace("_", " ") for word in words(name))


@functools.cache
def rejected(name: str) -> re.Pattern[str]:
    """A list of words/rejected.toml as one pattern."""
    return re.compile("|".join(table("rejected")[name]))


def drawn(source: str) -> dict[str, Any]:
    """What words/sources.toml says of a source."""
    return table("sources")["drawings"][source]


@functools.cache
def singular(noun: str) -> str | None:
    """The singular of a plural, or None if it is none as far as inflect knows."""
    return _inflect().singular_noun(noun) or None


@functools.cache
def _inflect() -> Any:
    import inflect

    return inflect.engine()


def frequency(word: str, language: str = "en") -> float:
    """How common a word is, on wordfreq's Zipf scale: 7 is "the", 1 is rare, 0 is unknown."""
    import wordfreq

    return wordfreq.zipf_frequency(word, language)


def lot(text: str) -> int:
    """A number that the text draws, the same on every machine."""
    return zlib.crc32(text.encode())


def tokens(text: str) -> list[str]:
    """The words of a text.

    >>> tokens("T-Rex, 3 of them")
    ['t', 'rex', '3', 'of', 'them']
    """
    return re.findall(r"[a-z0-9]+", text.lower())


def slug(text: str) -> str:
    """A text as a file's name.

    >>> slug("Mrs. Claus’s hat")
    'mrs-clauss-hat'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("’", "").replace("'", "")).strip("-")


def concept_of(text: str) -> str:
    """What a name is of, whatever its style: lower case, no article, its last word in the singular."""
    text = re.sub(r"\(.*?\)", " ", text.lower().replace("’", "'"))
    filler = ("a", "an", "the", "icon", "symbol", "clipart", "s")
    parts = [word for word in re.findall(r"[a-z']+", text) if word not in filler]
    if not parts:
        return ""
    last = parts[-1]
    if last not in words("singular") and last not in words("plural") and len(last) > 3:
        parts[-1] = singular(last) or last
    return " ".join(parts)


def banned(*texts: str) -> bool:
    """Whether a text names a brand mark, or what is not for everyone."""
    never = words("unsafe") | words("brands")
    for text in texts:
        found, name = set(tokens(text)), slug(text)
        if found & {"logo", "logos"} or found & never:
            return True
        if any("-" in word and word in name for word in never):
            return True
    return False


# ---------------------------------------------------------------------------------------------- emoji


@dataclass
class Entry:
    """What emojibase and emojilib say of one emoji."""

    label: str
    group: int | None = None
    subgroup: int | None = None
    tags: list[str] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)
    shortcodes: list[str] = field(default_factory=list)


def code_points(text: str) -> str:
    """Code points in the one way of writing them here: lower case, no variation selectors.

    >>> code_points("1F1E9_1F1EA-FE0F")
    '1f1e9-1f1ea'
    """
    return "-".join(part for part in re.split(r"[-_ ]", text.lower()) if part and part != "fe0f")


def of_characters(text: str) -> str:
    """The code points of an emoji itself."""
    return code_points("-".join(f"{ord(character):x}" for character in text))


def pretty(label: str) -> str:
    """The official name of an emoji as a person would say it.

    >>> pretty("flag: Chad"), pretty("woman: beard"), pretty("family: man, woman, boy")
    ('flag of Chad', 'woman with a beard', 'family with man, woman and boy')
    """
    label = label.replace("’", "'").replace("“", "").replace("”", "")
    if label in table("names")["renamed"]:
        return table("names")["renamed"][label]
    if label in words("zodiac"):
        return f"{label} zodiac sign"
    if re.match(r"^(\w+) o'clock$", label):
        return f"clock showing {label}"
    if found := re.match(r"^flag: (.+)$", label):
        return f"flag of {found[1]}"
    if found := re.match(r"^(family|couple with heart|kiss|men|women|people)\s*: (.+)$", label):
        *most, last = found[2].split(", ")
        who = f"{', '.join(most)} and {last}" if most else last
        several = {
            "family": f"family with {who}",
            "couple with heart": f"{who} with a heart",
            "kiss": f"{who} kissing",
        }
        return several.get(found[1], f"{found[1]}: {who}")
    if found := re.match(r"^(person|man|woman): (.+)$", label):
        who, what = found.groups()
        return {"bald": f"bald {who}", "beard": f"{who} with a beard"}.get(
            what, f"{who} with {what}"
        )
    return label.replace(": ", " ")


class Emoji:
    """Every emoji, and the names by which the packages and people call it."""

    def __init__(self, entries: dict[str, Entry], subgroups: dict[int, str] | None = None) -> None:
        self.entries = entries
        self.subgroups = subgroups or {}
        self.by_name: dict[str, str] = {}  # slug of a name -> code points
        self.also: dict[str, set[str]] = defaultdict(set)  # code points -> names in icon sets
        self.names: dict[str, str] = {}  # concept of a name or alias -> name
        self.vocabulary: set[str] = set()
        self.labels = {entry.label.lower() for entry in entries.values()}
        flags = (entry.label for entry in entries.values() if entry.label.startswith("flag: "))
        self.flags = {pretty(label).lower() for label in flags}  # "flag of chad"
        for code, entry in entries.items():
            self._register(entry.label, code)
            self._register(pretty(entry.label), code)
            self.names.setdefault(concept_of(pretty(entry.label)), pretty(entry.label))
            for text in (entry.label, *entry.tags, *entry.keywords):
                self.vocabulary.update(tokens(text.replace("_", " ")))
        for label, aliases in table("names")["aliases"].items():
            for alias in aliases:
                self.names.setdefault(concept_of(alias), pretty(label))
                self.vocabulary.update(tokens(alias))
        self.vocabulary -= words("too_general")

    def learn(self, icons: Iterable[dict[str, str]]) -> None:
        """Take in the names that icon sets give, by character, and after these the short codes of chat programs."""
        for names in icons:
            for characters, name in names.items():
                code = code_points(characters)
                if code in self.entries:
                    self._register(name, code)
                    self.also[code].add(name.replace("-", " "))
        for code, entry in self.entries.items():
            for name in entry.shortcodes:
                self._register(name, code)

    def _register(self, name: str, code: str) -> None:
        if len(re.sub(r"[^a-z]", "", name.lower())) >= 2:
            self.by_name.setdefault(slug(name), code)
            self.by_name.setdefault(slug(name).replace("-", ""), code)

    def named(self, concept: str) -> str | None:
        """The emoji's name that is the same concept, other than by an alias."""
        name = self.names.get(concept)
        return name if name is not None and concept_of(name) == concept else None


def load_emoji(modules: Path) -> Emoji:
    """Read emojibase-data, emojilib, and the names of characters in the icon sets of emoji."""
    base = modules / "emojibase-data"
    shortcodes: dict[str, list[str]] = defaultdict(list)
    for name in ("cldr", "github", "iamcal", "joypixels", "emojibase"):
        for code, found in _read_json(base / "en" / "shortcodes" / f"{name}.json").items():
            shortcodes[code_points(code)] += [found] if isinstance(found, str) else found
    library = _read_json(modules / "emojilib" / "dist" / "emoji-en-US.json")
    keywords = {of_characters(characters): found for characters, found in library.items()}
    entries = {}
    for found in _read_json(base / "en" / "data.json"):
        code = code_points(found["hexcode"])
        entries[code] = Entry(
            label=found["label"],
            group=found.get("group"),
            subgroup=found.get("subgroup"),
            tags=found.get("tags", []),
            keywords=keywords.get(code, []),
            shortcodes=shortcodes.get(code, []),
        )
    subgroups = _read_json(base / "meta" / "groups.json")["subgroups"]
    emoji = Emoji(entries, {int(number): name for number, name in subgroups.items()})
    sets = (icon_set(modules, source) for source in ("noto", "twemoji", "fluentflat"))
    emoji.learn(_read_json(folder / "chars.json") for folder in sets)
    return emoji


# ---------------------------------------------------------------------------------------------- collect


@functools.cache
def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def icon_set(modules: Path, source: str) -> Path:
    """The folder of a source that is an icon set of iconify."""
    kind, package = drawn(source)["package"].split(" ")
    assert kind == "npm", source
    return modules / package.rpartition("@")[0]


def collect(packages: Path, emoji: Emoji) -> Iterator[Drawing]:
    """Every drawing of every package that could be taken, before its name is looked at."""
    modules = packages / "npm" / "node_modules"
    yield from collect_3d(modules, emoji)
    for source, said in table("sources")["drawings"].items():
        if said["kind"] == "emoji" and source != "fluent3d":
            yield from collect_emoji(modules, source, emoji)
        elif said["kind"] == "icons":
            yield from collect_icons(modules, source, emoji)
    yield from collect_circle_flags(modules, emoji)
    yield from collect_clip_art(
        packages / "deb" / "openclipart-svg" / "usr/share/openclipart/svg", emoji
    )
    yield from collect_tango(
        packages / "deb" / "tango-icon-theme" / "usr/share/icons/Tango/scalable"
    )
    yield from collect_crawl(packages / "src" / "crawl" / "source/rltiles")


def collect_3d(modules: Path, emoji: Emoji) -> Iterator[Drawing]:
    """Fluent Emoji 3D: files named by code points; those of two skin tones are left out."""
    for path in sorted((icon_set(modules, "fluent3d") / "assets").glob("*.webp")):
        code = code_points(path.stem)
        parts = code.split("-")
        tones = [part for part in parts if part in TONES]
        if len(set(tones)) > 1:
            continue
        plain = "-".join(part for part in parts if part not in TONES)
        yield Drawing(
            "fluent3d",
            key=code,
            raw=code,
            emoji=plain if plain in emoji.entries else None,
            tone=TONES[tones[0]] if tones else None,
            file=str(path),
        )


def collect_emoji(modules: Path, source: str, emoji: Emoji) -> Iterator[Drawing]:
    """An icon set of emoji: which emoji an icon is stands in chars.json, or its name tells."""
    folder = icon_set(modules, source)
    icons = _read_json(folder / "icons.json")["icons"]
    characters: dict[str, str] = {}
    if (folder / "chars.json").exists():
        for code, name in _read_json(folder / "chars.json").items():
            characters.setdefault(name, code_points(code))
    toned = re.compile(r"-(medium-light|medium-dark|light|medium|dark)(-skin-tone)?$")
    for name in icons:
        base, tone = name, None
        found = toned.search(name)
        if found and (name[: found.start()] in icons or found[2]):
            base, tone = name[: found.start()], found[1]
            if "skin-tone" in base:
                continue  # two people of two tones
        code = characters.get(name)
        if code:
            code = "-".join(part for part in code.split("-") if part not in TONES)
        unnumbered = re.sub(r"-\d+$", "", base)
        if not code or code not in emoji.entries:
            spellings = [base, unnumbered, unnumbered.replace("-", "")]
            if source == "fxemoji":
                spellings.append(re.sub(r"\d+$", "", base))
            codes = (emoji.by_name.get(spelling) for spelling in spellings)
            code = next((found for found in codes if found), None)
        yield Drawing(source, key=name, raw=unnumbered.replace("-", " "), emoji=code, tone=tone)


def collect_icons(modules: Path, source: str, emoji: Emoji) -> Iterator[Drawing]:
    """A set of named icons: those whose name is made of words that people use for things."""
    folder = icon_set(modules, source)
    names = sorted(_read_json(folder / "icons.json")["icons"])
    shelves: dict[str, str] = {}
    if (folder / "metadata.json").exists():
        for shelf, members in _read_json(folder / "metadata.json").get("categories", {}).items():
            shelves.update(dict.fromkeys(members, shelf))
    if source == "fluentui":
        names = _largest(names)
    found = []
    for name in names:
        plain = _icon_name(source, name, shelves.get(name))
        if plain is None or not _names_a_thing(source, plain, emoji):
            continue
        if source == "ultimate":
            series = "|".join(table("names")["series"]["ultimate"])
            plain = re.sub(rf"^({series})-(?=[a-z])", "", plain)
            smiley = re.match(r"^smiley-(.+)$", plain)
            plain = f"{smiley[1]} smiley" if smiley else plain
        raw = plain.replace("-", " ")
        found.append(Drawing(source, key=name, raw=raw, shelf=shelves.get(name, "")))
    if source == "gameicons":
        lands = {flag.removeprefix("flag of ") for flag in emoji.flags}
        outlines = {"card", "state", "map", "country"}
        found = [
            one for one in found if one.raw not in lands and not outlines & set(tokens(one.raw))
        ]
        found.sort(key=lambda one: (concept_of(one.raw) not in emoji.names, lot(one.key)))
        found = found[:1500]
    yield from found


def _largest(names: Sequence[str]) -> list[str]:
    """Of icons drawn at several sizes, "mail-16" and "mail-48", the one at the largest."""
    best: dict[str, tuple[int, str]] = {}
    for name in names:
        sized = re.match(r"(.+)-(\d+)$", name)
        base, size = (sized[1], int(sized[2])) if sized else (name, 0)
        if size > best.get(base, (0, ""))[0]:
            best[base] = (size, name)
    return [name for _, name in best.values()]


def _icon_name(source: str, name: str, shelf: str | None) -> str | None:
    """An icon's name without numbers and variants, or None where the icon is not taken."""
    plain = re.sub(r"(-\d+)+$", "", name)
    plain = re.sub(r"-(duo|flat)$", "", plain)
    plain = re.sub(r"(-\d+)+$", "", plain)
    if source == "iconpark":
        if shelf not in words("shelves"):
            return None
        plain = re.sub(r"-(one|two|three|four|five|h|v)$", "", plain).replace("-zodiac", "")
    if source == "meteocons":
        if not name.endswith("-fill") or rejected("weather").search(name):
            return None
        plain = name[: -len("-fill")]
        plain = plain.replace("overcast-day", "overcast day").replace(
            "overcast-night", "overcast night"
        )
    return plain


def _names_a_thing(source: str, name: str, emoji: Emoji) -> bool:
    """Whether an icon's name is of a thing that can be drawn, in words that people use."""
    parts = tokens(name)
    if not 1 <= len(parts) <= 5 or any(len(part) == 1 and part != "t" for part in parts):
        return False
    if re.search(r"\d", name) or any(frequency(part) < 1.8 for part in parts):
        return False
    if source not in ("meteocons", "gameicons") and words("interface") & set(parts):
        return False
    if source not in ("meteocons", "kameleon") and not emoji.vocabulary.issuperset(parts):
        return False
    if source not in ("meteocons", "kameleon", "fluentui") and words("abstract") & set(parts):
        return False
    if source == "gameicons":
        return (
            len(parts) <= 3
            and "abstract" not in parts
            and all(frequency(part) >= 2.6 for part in parts)
        )
    return True


def collect_circle_flags(modules: Path, emoji: Emoji) -> Iterator[Drawing]:
    """Round flags, named by the two letters of a country: those that are an emoji."""
    countries = {}
    for code, entry in emoji.entries.items():
        if entry.label.startswith("flag: ") and re.match(r"^1f1..-1f1..$", code):
            letters = (chr(int(part, 16) - 0x1F1E6 + ord("a")) for part in code.split("-"))
            countries["".join(letters)] = code
    for name in sorted(_read_json(icon_set(modules, "circleflags") / "icons.json")["icons"]):
        if name in countries:
            yield Drawing("circleflags", key=name, raw=name, emoji=countries[name])


def collect_tango(folder: Path) -> Iterator[Drawing]:
    """Tango: the drawings that words/names.toml names, each file once though links give it other names."""
    seen = set()
    for path in sorted(folder.glob("*/*.svg"), key=str):
        name = table("names")["tango"].get(path.stem)
        if name and path.resolve() not in seen:
            seen.add(path.resolve())
            yield Drawing("tango", key=path.stem, raw=name, file=str(path), category="objects")


def collect_crawl(folder: Path) -> Iterator[Drawing]:
    """Tiles of Dungeon Crawl Stone Soup, named by their files."""
    for shelf, noun in table("names")["crawl_folders"].items():
        for path in sorted((folder / shelf).glob("[!.]*.png")):
            stem = re.sub(r"_?\d+$", "", path.stem)
            if rejected("crawl_files").search(path.stem):
                continue
            if words("crawl_unknown") & {path.stem, stem, stem.rstrip("-")}:
                continue
            name = tile_name(shelf, path.stem, noun)
            parts = tokens(name)
            if not 1 <= len(parts) <= 5 or any(frequency(part) < 1.0 for part in parts):
                continue
            if shelf.startswith("mon") and "animals" not in shelf and "plants" not in shelf:
                category = "fantasy creatures"
            elif shelf.startswith(("mon", "dngn/trees")):
                category = "animals & nature"
            else:
                category = "food & drink" if "food" in shelf else "objects"
            yield Drawing(
                "crawl",
                key=f"{shelf}/{path.stem}".replace("/", "."),
                raw=name,
                file=str(path),
                category=category,
                keywords=["fantasy", "game"],
            )


def tile_name(shelf: str, stem: str, noun: str) -> str:
    """What a tile shows, from its file's name and the noun that its folder adds."""
    if shelf == "item/gold":
        return "pile of gold coins" if int(stem) > 3 else "gold coins"
    name = re.sub(r"[_\-]+", " ", re.sub(r"_?\d+$", "", stem)).strip()
    name = re.sub(r"\d+", "", name).strip()
    variants = "art|old|new|ok|left|right|closed|inactive|inert|base|male|female|m|f|small|large|nw|ne|se|sw|n|s|e|w"
    name = re.sub(rf"\b({variants})\b$", "", name).strip()
    if found := re.match(r"^(zombie|skeleton|spectral|simulacrum) (.+)$", name):
        kinds = {"zombie": "zombie {}", "skeleton": "{} skeleton", "spectral": "ghostly {}"}
        name = kinds.get(found[1], "ice {}").format(found[2])
    for wrong, right in table("names")["crawl"].items():
        pattern = rf"\b{wrong.strip()}\b"
        applies = re.match(pattern, name) if wrong.endswith(" ") else re.search(pattern, name)
        if applies and not (right and right in name):
            name = re.sub(pattern, right.strip(), name, count=1).strip()
    if noun and noun not in name:
        name = f"{name} {noun}".strip()
    if shelf == "mon/fungi_plants" and not rejected("plants").search(name):
        name += " plant"
    if shelf == "dngn/statues" and not re.search("statue|idol|column", name):
        name += " statue"
    name = re.sub(r"\s+", " ", name).strip()
    if found := re.match(r"^statue (.+)$", name):
        name = f"statue of {article(found[1])} {found[1]}"
    nouns = "elephant|hat|cap|cloak|scroll|evil clown|earthen|tree|sarcophagus|staff"
    adjectives = (
        "red|blue|green|yellow|purple|cyan|brown|grey|slug|dire|demonic|jester|explorer|archer|"
        "leather|sealed|mummy"
    )
    if found := re.match(rf"^({nouns}) ({adjectives})$", name):
        name = f"{found[2]} {found[1]}"
    return name.replace("ghostly", "ghost").replace("flourescent", "fluorescent")


# ------------------------------------------------------------------------------------ Open Clip Art


@dataclass
class Card:
    """What an SVG of Open Clip Art says of itself."""

    title: str = ""
    description: str = ""
    author: str = ""
    license: str = ""
    keywords: list[str] = field(default_factory=list)


def collect_clip_art(folder: Path, emoji: Emoji) -> Iterator[Drawing]:
    """Open Clip Art: drawings in the public domain, by their own metadata, that a name can be found for."""
    seen = set()
    skipped = tuple(table("lists")["clip_art_skipped"].split())
    for path in sorted(folder.rglob("*.svg"), key=str):
        inside = path.relative_to(folder).as_posix()
        if inside.startswith("geography/") and not (
            inside.startswith("geography/astronomy") or re.search("globe|moon|planet|earth", inside)
        ):
            continue
        if inside.startswith(skipped) or path.resolve() in seen or path.stat().st_size > 700_000:
            continue
        seen.add(path.resolve())
        card = read_card(path)
        if card is None or not re.search("PublicDomain|publicdomain", card.license):
            continue
        spoken = inside[: -len(".svg")].replace("/", " ").replace("_", " ")
        if banned(card.title, card.description, spoken, " ".join(card.keywords)):
            continue
        shelf = inside.rpartition("/")[0]
        is_flag = shelf.startswith("signs_and_symbols/flags") or (
            shelf.startswith("signs_and_symbols") and bool({"flag", "flags"} & set(card.keywords))
        )
        suit = re.match(r"ornamental_([shdc])_(\w+)$", path.stem)
        if suit and shelf.endswith("ornamental"):
            is_flag = False
            names = table("names")
            rank = names["ranks"].get(suit[2], suit[2])
            name = f"{rank} of {names['suits'][suit[1]]} playing card"
        else:
            name = clip_art_name(card, shelf, path.stem, is_flag, emoji)
        if not name:
            continue
        yield Drawing(
            "openclipart",
            key=inside[: -len(".svg")],
            raw=name,
            file=str(path),
            category="flags" if is_flag else _first("clip_art_groups", shelf) or "objects",
            keywords=_clip_art_keywords(card, emoji),
            author=card.author,
            monochrome=bool(re.search(r"b and w|\bbw\b|_bw", f"{card.title} {path.stem}", re.I)),
        )


def read_card(path: Path) -> Card | None:
    """The RDF metadata of an SVG; None where it has embedded bitmaps, needs fonts or cannot be read."""
    from lxml import etree

    try:
        root = etree.parse(str(path), etree.XMLParser(recover=True, huge_tree=True)).getroot()
    except (etree.XMLSyntaxError, OSError):
        return None
    if root is None or next(root.iter("{*}image"), None) is not None:
        return None
    if sum(len("".join(text.itertext()).strip()) for text in root.iter("{*}text")) > 2:
        return None
    work = next(root.iter("{*}Work"), None)
    if work is None:
        return Card()

    def text_of(query: str) -> str:
        found = work.find(query)
        return (found.text or "").strip() if found is not None else ""

    core = "{http://purl.org/dc/elements/1.1/}"
    licence = next(work.iter("{*}license"), None)
    return Card(
        title=text_of(f"{core}title"),
        description=text_of(f"{core}description"),
        author=text_of(f".//{core}creator//{core}title"),
        license=next(iter(licence.attrib.values()), "") if licence is not None else "",
        keywords=[(one.text or "").strip().replace("_", " ") for one in work.iter("{*}li")],
    )


def clip_art_name(card: Card, shelf: str, stem: str, is_flag: bool, emoji: Emoji) -> str | None:
    """A name from title, file name, description or keywords, or the noun of its folder."""
    names = table("names")
    candidates = []
    if card.title and not _series(card.title):
        candidates.append(clip_art_title(card.title))
    author = r"_[a-z.]+_[a-z.]+_\d\d?$|_[a-z.]+_[a-z.]+_[a-z.]*_?$"
    candidates.append(clip_art_title(re.sub(author, "", stem)))
    if card.description and len(card.description) < 45 and not _series(card.description):
        candidates.append(clip_art_title(card.description))
    candidates = [candidate for candidate in candidates if candidate]
    name = _title_of_series(card, stem, candidates)
    if not name:
        readable = (one for one in candidates if len(one.split()) <= 6 and english(one, emoji))
        name = next(readable, None)
    if not name:
        name = next((found for found in map(translate, candidates) if found), None)
    if not name and shelf.startswith(("animals", "food", "plants")):
        keywords = (re.sub(r"[^a-z ]", "", keyword.lower()).strip() for keyword in card.keywords)
        good = [one for one in keywords if _telling(one, card) and one in emoji.vocabulary]
        good = [one for one in good if one not in words("general_keywords")]
        name = good[0] if len(good) == 1 else None
    if is_flag:
        return _flag_name(name, emoji) if name else None
    if shelf == "shapes/callouts":
        return "cloud speech bubble" if name and "cloud" in name else "speech bubble"
    if shelf == "people/smilies":
        name = "smiley face"
    elif shelf == "people/stickmen":
        name = "stick figure"
    elif shelf == "transportation/roadsigns" and name and "sign" not in name:
        name = f"{name} road sign"
    elif shelf == "transportation/aiga-symbols":
        name = f"{clip_art_title(re.sub('^aiga_', '', stem))} sign"
    elif not name:
        name = _first("clip_art_shelves", shelf)
    if not name:
        return None
    kinds, ways, colors = (
        "arrow|button|pill button|joystick",
        "left|right|up|down",
        "red|green|blue|purple|yellow",
    )
    if found := re.match(rf"^({kinds}) (?:({ways}) )?({colors})$", name):
        name = f"{found[3]} {found[1]}" + (f" pointing {found[2]}" if found[2] else "")
    return names["clip_art_names"].get(name, name)


def clip_art_title(title: str) -> str:
    """A title or file name in plain lower-case words, without numbers, variants and makers."""

    def without(pattern: str, text: str, by: str = " ") -> str:
        return re.sub(pattern, by, text, flags=re.I)

    title = title.replace("&#39;", "'").replace("_", " ")
    title = without(r"\((?:b and w|bw|b&w)\)|\bb ?(?:and|&) ?w\b|\bbw\b", title)
    title = without(r"\(\s*([a-z ]+?)\s*\)", title, r" \1")
    title = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", title)
    title = without(r"\s+-\s+(open|closed)$", title, r" \1").replace("-", " ")
    numbered = "illustration|drawing|image|clip ?art|icon|symbol of|remix|version|outline|silhouette of|no|n"
    title = without(rf"\b({numbered})?\b\s*[#]?\d+\w?\b", title)
    title = re.sub(r"\d+", " ", title)
    kinds = (
        "contour|clipart|clip art|icon|drawn with straight lines|illustration|vector|simple|generic|"
        "rpg map elements|silhouette|alt|alternative|version|remix|preview"
    )
    title = without(rf"\b({kinds})\b", title)
    ends = (
        "by nicu buculei|one|scoops?|aj|a j|di|x+|b w|b amp w|head cut|colou?r|two scoops?|with bite|body part|"
        "coloured|colored"
    )
    title = without(rf"\b({ends})$", title.strip())
    title = re.sub(r"\s+", " ", re.sub(r"[^A-Za-z' ]+", " ", title)).strip().lower()
    title = re.sub(r"( one| scoops?| aj| a j| b amp w| yet another| right font)+$", "", title)
    title = re.sub(r"^(an? |the |b w |another |little tan )", "", title)
    return table("names")["clip_art"].get(title, title)


def english(text: str, emoji: Emoji) -> bool:
    """Whether every word is a known English one that is not far commoner in another language."""
    foreign = words("foreign")
    parts = [
        part for part in re.findall(r"[a-z']+", text.lower()) if len(part) > 1 or part in foreign
    ]
    if not parts or foreign & set(parts):
        return False
    for part in parts:
        if part in emoji.vocabulary:
            continue
        known = frequency(part)
        if known < 2.25:
            return False
        others = (frequency(part, language) for language in ("it", "fr", "es", "pt", "de"))
        if known < 3.7 and max(others) > known + 0.6:
            return False
    return True


def translate(title: str) -> str | None:
    """The first thing that a title in Italian or French names; two, joined by "e".

    >>> translate("gatto e cane"), translate("un gatto nero"), translate("qualcosa")
    ('cat and dog', 'cat', None)
    """
    parts = re.findall(r"[a-z]+", title.lower())
    known = [table("names")["italian"][part] for part in parts if part in table("names")["italian"]]
    if "e" in parts and len(known) >= 2:
        return f"{known[0]} and {known[1]}"
    return known[0] if known else None


def _series(title: str) -> bool:
    return bool(re.search(rejected("clip_art_titles").pattern, title, re.I))


def _title_of_series(card: Card, stem: str, candidates: Sequence[str]) -> str | None:
    """The name of a drawing of two series whose titles are Italian though they may look English."""
    if not re.search(r"rolland|archite", card.author + stem, re.I):
        return None
    known = words("foreign").union(table("names")["italian"])
    italian = (translate(one) for one in candidates if known.issuperset(one.split()))
    return next((name for name in italian if name), None)


def _flag_name(name: str, emoji: Emoji) -> str | None:
    """A flag's name, if it is of a country that is an emoji."""
    if f"flag of {name}".lower() not in emoji.flags and f"flag: {name}".lower() not in emoji.labels:
        return None
    parts = re.sub(r"^flag of |\bflag\b", "", name).split()
    small = ("and", "of", "the")
    return "flag of " + " ".join(part if part in small else part.capitalize() for part in parts)


def _first(name: str, shelf: str) -> str | None:
    """The entry of a table of words/names.toml whose key the folder begins with."""
    return next((to for begin, to in table("names")[name].items() if shelf.startswith(begin)), None)


def _telling(keyword: str, card: Card) -> bool:
    """Whether a keyword says something of the thing, and is not its author's name."""
    if len(keyword) <= 2 or keyword in words("noise_keywords"):
        return False
    return not card.author or keyword not in card.author.lower()


def _clip_art_keywords(card: Card, emoji: Emoji) -> list[str]:
    kept: list[str] = []
    for keyword in card.keywords:
        plain = re.sub(r"[^a-z ]", "", keyword.lower()).strip()
        if plain not in kept and _telling(plain, card) and english(plain, emoji):
            kept.append(plain)
    return kept


# ---------------------------------------------------------------------------------------------- name


def choose(found: Iterable[Drawing], emoji: Emoji) -> list[Drawing]:
    """The drawings that are taken, named and in a category, in the order of their ids."""
    taken: dict[str, Drawing] = {}
    for one in found:
        name = name_emoji if one.emoji in emoji.entries else name_other
        if name(one, emoji) and not _left_out(one) and _toned(one) and one.id not in taken:
            taken[one.id] = one
    flags: dict[str, list[Drawing]] = defaultdict(list)
    for one in taken.values():
        if one.category == "flags":
            flags[one.source].append(one)
    for source, several in flags.items():
        several.sort(key=lambda one: lot(f"f{one.source}{one.key}"))
        for one in several[drawn(source).get("flags", 12) :]:
            del taken[one.id]
    kept, times = [], Counter[tuple[str, str]]()
    for one in sorted(taken.values(), key=lambda one: lot(one.id)):
        times[one.source, concept_of(one.name)] += 1
        most = 22 if one.source in ("openclipart", "crawl") else 6
        if one.source == "openclipart" and one.name.endswith(" sign"):
            most = 1
        if times[one.source, concept_of(one.name)] <= most:
            kept.append(one)
    return sorted(kept, key=lambda one: one.id)


def name_emoji(one: Drawing, emoji: Emoji) -> bool:
    """Name a drawing by the emoji that it is; False for letters, keycaps, interface signs and half hours."""
    assert one.emoji is not None
    entry = emoji.entries[one.emoji]
    one.name = pretty(entry.label)
    if entry.group is None or CATEGORIES[entry.group] == "component":
        return False
    one.category = CATEGORIES[entry.group]
    kind = emoji.subgroups.get(entry.subgroup, "") if entry.subgroup is not None else ""
    signs = ("keycap", "alphanum", "av-symbol", "punctuation", "other-symbol", "math")
    if kind in signs and entry.label not in phrases("signs"):
        return False
    if kind == "geometric" and one.source not in ("fluent3d", "noto", "twemoji", "fluentflat"):
        return False
    if kind == "warning" and "no " in entry.label and one.source == "fxemoji":
        return False
    if kind == "time" and "thirty" in entry.label:
        return False
    first = entry.label.split()[0].strip("!")
    return not (kind == "arrow" and (entry.label.isupper() or first.isupper()))


def name_other(one: Drawing, emoji: Emoji) -> bool:
    """Name a drawing that is no emoji by its own name, or by the emoji that has the same name."""
    if drawn(one.source)["kind"] == "emoji":
        if one.source in ("fluent3d", "fxemoji") or one.tone:
            return False
        parts = tokens(one.raw)
        if not 1 <= len(parts) <= 6 or re.search(r"\d", one.raw):
            return False
        if any(len(part) == 1 or frequency(part) < 2.2 for part in parts):
            return False
        if rejected("emoji").search(one.raw):
            return False
        one.raw = re.sub(r"\b(face|emoji)\b$", "face", one.raw)
    concept = concept_of(one.raw)
    same = emoji.named(concept)
    one.name = same or one.raw
    if one.category:
        if same:
            one.emoji = emoji.by_name.get(slug(same))
        return True
    canonical = emoji.names.get(concept)
    code = emoji.by_name.get(slug(canonical)) if canonical else None
    group = emoji.entries[code].group if code else None
    if group is not None:
        one.category = CATEGORIES[group]
    else:
        one.category = (
            "travel & places" if one.source == "meteocons" else SHELVES.get(one.shelf, "objects")
        )
    if code and same:
        one.emoji = code
    return True


def _left_out(one: Drawing) -> bool:
    """Whether a name says too little, or something that is not for everyone."""
    if one.source == "openclipart":
        shown_otherwise = ("bread", "basket", "crayon")  # as pictures of a screen
        if rejected("clip_art").search(one.name) or "mateya" in one.key:
            return True
        if one.key.startswith(("computer", "office")) and one.name in shown_otherwise:
            return True
    if one.source == "crawl" and rejected("crawl").search(one.name):
        return True
    if banned(one.name, one.raw, one.key.replace("/", " ").replace("_", " ")):
        return True
    if rejected("names").search(one.name):
        return True
    return one.name.startswith("family with") and lot(one.key) % 4 != 0


def _toned(one: Drawing) -> bool:
    """Take an emoji in one tone of skin besides the default, which one by lot and not always; put it into the name."""
    if not one.tone:
        return True
    if one.source not in ("noto", "twemoji", "fluent3d", "fluentflat"):
        return False
    if one.tone != list(TONES.values())[lot(f"{one.source}{one.emoji}") % len(TONES)]:
        return False
    if re.search("holding hands|kissing|family|with a heart", one.name):
        return False
    if lot(f"t{one.source}{one.emoji}") % 100 >= 60:
        return False
    one.name += f" with {one.tone.replace('-', ' ')} skin tone"
    return True


# ---------------------------------------------------------------------------------------------- draw


def render(one: Drawing, modules: Path) -> Image.Image:
    """A drawing, RGBA, cut to its edges and at most 256 pixels long. Tiles keep their own pixels.

    Raises:
        ValueError: there is next to nothing to be seen.
    """
    if one.source in ("crawl", "fluent3d"):
        with Image.open(one.file) as opened:
            image = opened.convert("RGBA")
        if one.source == "crawl" and max(image.size) > 48:
            raise ValueError("a tile of several squares")
    elif one.file:
        text = Path(one.file).read_text(encoding="utf-8", errors="replace")
        text = re.sub(r"<\?xml[^>]*\?>", "", text)
        image = _render_page(text, dpi=drawn(one.source).get("dpi", 90))
    else:
        image = rasterize(icon_svg(icon_set(modules, one.source), one.key), 288)
    box = edges(image)
    if box is None or box[2] - box[0] < 6 or box[3] - box[1] < 6:
        raise ValueError("empty")
    image = image.crop(box)
    if one.source != "crawl" and max(image.size) > 256:
        image = _resize(image, 256 / max(image.size))
    return image


def icon_svg(folder: Path, name: str) -> str:
    """An icon of an iconify set as an SVG of its own, its animations stopped."""
    icons = _read_json(folder / "icons.json")
    icon = {"width": 16, "height": 16, "left": 0, "top": 0, **icons, **icons["icons"][name]}
    body = icon["body"]
    if "<animate" in body or "<set" in body:
        body = re.sub(r"<(animate\w*|set)\b[^>]*/>", "", body)
        body = re.sub(r"<(animate\w*|set)\b.*?</\1>", "", body, flags=re.S)
        body = re.sub(r'\sopacity="0"', "", body)
    left, top, width, height = (icon[key] for key in ("left", "top", "width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
    )


def rasterize(svg: str, side: int, *, dpi: float = 90) -> Image.Image:
    """An SVG, drawn by resvg into a square of so many pixels, RGBA, whatever fonts the machine has.

    Raises:
        ValueError: it has no size.
    """
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=side, height=side, dpi=dpi, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def edges(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The box of what can be seen."""
    return image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()


def _render_page(svg: str, *, dpi: float) -> Image.Image:
    """A drawing that may lie anywhere on its page, or over its rim: with what surrounds the page if need be."""
    image = rasterize(svg, 288, dpi=dpi)
    box = edges(image)
    page = svg
    if box is None or 0 in box[:2] or box[2] == image.width or box[3] == image.height:
        wider = widen(svg)
        if wider:
            wide = rasterize(wider, 640, dpi=dpi)
            wide_box = edges(wide)
            # a third of 640 is the page: larger than that, it was cut off
            if wide_box and (box is None or max(_extent(wide_box)) > 225):
                image, box, page = wide, wide_box, wider
    if box and max(_extent(box)) < 128:
        side = min(1600, int(max(image.size) * 200 / max(*_extent(box), 20)))
        image = rasterize(page, side, dpi=dpi)
    return image


def _extent(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def widen(svg: str) -> str | None:
    """An SVG with a page three times as wide and high around its own; None where it does not say how large it is."""
    found = re.search(r"<svg\b[^>]*>", svg, re.S)
    if not found:
        return None
    tag = found[0]
    if box := re.search(r'viewBox\s*=\s*"([^"]+)"', tag):
        try:
            x, y, width, height = (float(part) for part in re.split(r"[ ,]+", box[1].strip()))
        except ValueError:
            return None
    else:
        x = y = 0
        width, height = _length(tag, "width"), _length(tag, "height")
        if not width or not height:
            return None
    bare = re.sub(r'\s(viewBox|width|height|preserveAspectRatio)\s*=\s*"[^"]*"', "", tag)
    page = (
        f' viewBox="{x - width} {y - height} {3 * width} {3 * height}" '
        f'width="{3 * width}" height="{3 * height}"'
    )
    return svg.replace(tag, "<svg" + page + bare[len("<svg") :], 1)


def _length(tag: str, name: str) -> float | None:
    """A length in pixels of 90 to the inch."""
    found = re.search(rf'\s{name}\s*=\s*"([\d.]+)([a-z%]*)', tag)
    if not found or found[2] == "%":
        return None
    units = {"pt": 1.25, "mm": 3.543307, "cm": 35.43307, "in": 90.0, "pc": 15.0}
    return float(found[1]) * units.get(found[2], 1.0)


def _resize(image: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def center(image: Image.Image, *, tile: bool) -> Image.Image:
    """A drawing in the middle of a transparent square of MEASURED pixels; the pixels of a tile are repeated."""
    canvas = Image.new("RGBA", (MEASURED, MEASURED), (0, 0, 0, 0))
    if tile:
        times = MEASURED // 32 if max(image.size) <= 32 else MEASURED // 48
        size = (image.width * times, image.height * times)
        image = image.resize(size, Image.Resampling.NEAREST)
    else:
        image = _resize(image, (MEASURED - 2 * MARGIN) / max(image.size))
    canvas.paste(image, ((MEASURED - image.width) // 2, (MEASURED - image.height) // 2))
    return canvas


def halve(pixels: np.ndarray) -> np.ndarray:
    """Two by two pixels into one, colour weighted by alpha: uint8 (2h, 2w, 4) -> (h, w, 4)."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    full = np.float32(255)
    colors, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32)
    colors = (colors * (alpha / full)).reshape(height, 2, width, 2, 3).mean((1, 3))
    alpha = alpha.reshape(height, 2, width, 2, 1).mean((1, 3))
    colors = colors / (np.maximum(alpha, np.float32(1e-6)) / full)
    both = np.concatenate([np.where(alpha > 0, colors, 0), alpha], -1)
    return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def few_colors(image: Image.Image) -> Image.Image:
    """A large picture in 256 colours, where nobody sees the difference and the file gets a fifth smaller."""
    plain = _png(image)
    if len(plain) <= 7000:
        return image
    method, dither = Image.Quantize.FASTOCTREE, Image.Dither.NONE
    quantized = image.quantize(256, method=method, dither=dither)
    before, after = np.asarray(image, int), np.asarray(quantized.convert("RGBA"), int)
    seen = before[..., 3:] > 0
    if (np.abs(after - before) * seen).sum() / max(1, seen.sum() * 4) >= 2.0:
        return image
    return quantized.convert("RGBA") if len(_png(quantized)) < 0.8 * len(plain) else image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def finish(image: Image.Image, *, tile: bool) -> bytes:
    """The file of a drawing: SIDE pixels, WebP without loss."""
    pixels = halve(np.asarray(few_colors(center(image, tile=tile))))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=6, quality=90)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------- look

COLORS = (
    "black",
    "white",
    "gray",
    "red",
    "orange",
    "yellow",
    "green",
    "teal",
    "blue",
    "purple",
    "pink",
    "brown",
    "beige",
)
BLACK, WHITE, GRAY, RED, ORANGE, YELLOW, GREEN, TEAL, BLUE, PURPLE, PINK, BROWN, BEIGE = range(13)


def classify(colors: np.ndarray) -> np.ndarray:
    """What one would call each colour: uint8 (..., 3) -> int8 (...), an index into COLORS.

    The bounds were set by eye: people call dark orange brown and pale orange beige, but no dark blue anything else.
    """
    red, green, blue = (colors[..., i].astype(np.float32) / 255 for i in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    chroma = value - least
    saturation = np.where(value > 0, chroma / np.maximum(value, 1e-6), 0)
    lightness = (value + least) / 2
    angle = np.zeros_like(value)
    colored = chroma > 1e-6
    reddest = colored & (value == red)
    greenest = colored & (value == green) & ~reddest
    bluest = colored & ~reddest & ~greenest
    angle[reddest] = (60 * ((green - blue)[reddest] / chroma[reddest])) % 360
    angle[greenest] = 60 * ((blue - red)[greenest] / chroma[greenest]) + 120
    angle[bluest] = 60 * ((red - green)[bluest] / chroma[bluest]) + 240

    bounds = [(angle < 14) | (angle >= 346)] + [
        angle < end for end in (38, 68, 160, 190, 252, 292, 346)
    ]
    hue = np.select(bounds, [RED, ORANGE, YELLOW, GREEN, TEAL, BLUE, PURPLE, PINK], RED)
    hue[(hue == ORANGE) & (angle < 18) & (saturation > 0.62) & (value > 0.62)] = RED
    found = hue.astype(np.int8)
    found[(hue == RED) & (lightness > 0.72)] = PINK
    found[(hue == RED) & (value < 0.42) & (angle > 6) & (angle < 14)] = BROWN
    dull = (value < 0.80) & (saturation < 0.66) & (lightness < 0.66)
    found[(hue == RED) & (angle > 7) & (angle < 14) & dull] = BROWN
    found[(hue == TEAL) & (angle >= 178) & (value > 0.75)] = BLUE
    found[(hue == YELLOW) & (angle < 42) & (value < 0.68)] = BROWN
    found[(hue == YELLOW) & (angle < 44) & (value >= 0.80) & (saturation < 0.50)] = BEIGE
    found[(hue == ORANGE) & (value < 0.68)] = BROWN
    found[(hue == ORANGE) & (value < 0.80) & (saturation < 0.62)] = BROWN
    found[(hue == ORANGE) & (value >= 0.80) & (saturation < 0.53)] = BEIGE
    found[(hue == YELLOW) & (value < 0.50)] = BROWN
    found[(hue == YELLOW) & (value >= 0.75) & (saturation < 0.28)] = BEIGE
    found[(hue == YELLOW) & (value >= 0.50) & (value < 0.72) & (saturation < 0.45)] = BROWN
    found[(hue == PINK) & (value < 0.55)] = PURPLE
    grayish = (chroma < 0.10) | (saturation < 0.14)
    grayish |= (saturation < 0.22) & (value < 0.75) & (chroma < 0.14)
    found[grayish] = GRAY
    found[grayish & (value > 0.90)] = WHITE
    found[(value < 0.45) & (saturation < 0.34) & (chroma < 0.13)] = GRAY
    found[(value < 0.36) & (saturation < 0.34) & (chroma < 0.12)] = BLACK
    dark = (value < 0.20) | (grayish & (value < 0.30)) | ((value < 0.27) & (chroma < 0.12))
    found[dark] = BLACK
    return found


def said_of(shares: np.ndarray, outline: float) -> str | None:
    """The colour that one would say of a thing: one, two, "colorful", or none.

    Args:
        shares: of each of COLORS, (13,).
        outline: up to this share black is outlines and does not count.
    """
    shares = np.where((np.arange(len(shares)) == BLACK) & (shares < outline), 0, shares)
    shares = shares / shares.sum() if shares.sum() > 0 else shares
    first, second, *_ = np.argsort(-shares)
    if shares[first] >= 0.55:
        return COLORS[first]
    two = shares[first] + shares[second] >= 0.66
    if two and shares[first] >= 0.30 and shares[second] >= 0.22:
        return f"{COLORS[first]} and {COLORS[second]}"
    bright = sum(share > 0.09 for share in shares[RED:])
    return "colorful" if bright >= 4 else None


def measure(image: Image.Image, *, outline: float, opaque: int = 100) -> Looks | None:
    """Look at a drawing of MEASURED pixels, RGBA; None where there is next to nothing.

    Args:
        image: from `center`.
        outline: as in `said_of`.
        opaque: a pixel of more alpha counts.
    """
    pixels = np.asarray(image)
    alpha = pixels[..., 3]
    visible = alpha > opaque
    count = int(visible.sum())
    if count < 120:
        return None
    ground = Image.new("RGBA", image.size, "white")
    on_white = Image.alpha_composite(ground, image).convert("RGB")
    contrast = np.abs(np.asarray(on_white).astype(int) - 255).max(-1) > 24
    classes = classify(pixels[..., :3])[visible]
    shares = np.bincount(classes, minlength=len(COLORS)) / count
    gray = np.asarray(on_white.convert("L").resize((17, 16), Image.Resampling.LANCZOS), int)
    small = on_white.resize((12, 12), Image.Resampling.LANCZOS)
    return Looks(
        color=said_of(shares, outline),
        palette={
            COLORS[index]: round(float(shares[index]), 3)
            for index in np.argsort(-shares)
            if shares[index] > 0.03
        },
        black=float(shares[BLACK]),
        white=float(shares[WHITE]),
        gray=float(shares[GRAY]),
        solid=float(_erode(visible, 3).sum() / count),
        cover=count / MEASURED / MEASURED,
        edge=float((alpha[6:-6, 6:-6] > 200).mean()),
        contrast=float(contrast.mean()),
        signs=np.packbits((gray[:, 1:] > gray[:, :-1]).flatten()),
        thumbnail=np.asarray(small, np.float32).flatten(),
    )


def _erode(mask: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1]
        mask = np.pad(inner & mask[1:-1, :-2] & mask[1:-1, 2:], 1)
    return mask


def refused(one: Drawing) -> str | None:
    """Why a drawing is left out for its looks, or None."""
    looks = one.looks
    if looks is None or (one.source == "crawl" and looks.cover < 0.06):
        return "tiny"
    if looks.contrast < 0.035:
        return "invisible on white"
    framed = re.search(r"sign|card|flag|square|book|window|stamp", one.name)
    if (
        one.source == "openclipart"
        and one.category != "flags"
        and looks.edge > 0.985
        and not framed
    ):
        return "a scene that fills its frame"
    return None


def without_duplicates(drawings: Iterable[Drawing]) -> list[Drawing]:
    """One of each group of drawings that look alike, the one of the earliest source."""
    order = {source: place for place, source in enumerate(table("sources")["drawings"])}
    queue = sorted(
        drawings,
        key=lambda one: (order[one.source], one.tone is not None, not one.emoji, one.id),
    )
    if not queue:
        return []
    signs = np.stack([one.seen.signs for one in queue]).view(np.uint64)
    thumbnails = np.stack([one.seen.thumbnail for one in queue])
    alive = np.ones(len(queue), bool)
    for i in range(len(queue)):
        if not alive[i]:
            continue
        apart = np.bitwise_count(signs[i + 1 :] ^ signs[i]).sum(1)
        near = np.nonzero(apart <= 9)[0] + i + 1
        for j in near:
            if not alive[j]:
                continue
            difference = np.abs(thumbnails[i] - thumbnails[j]).mean()
            if difference >= 5.0:
                continue
            if difference > 1.5 and queue[i].tone is None and queue[j].tone is not None:
                continue  # the same person, whose skin is the difference
            alive[j] = False
    return [one for one, stays in zip(queue, alive, strict=True) if stays]


# ------------------------------------------------------------------------------------------- caption


def article(text: str) -> str:
    """The article by sound.

    >>> article("apple"), article("unicorn"), article("hourglass"), article("umbrella")
    ('an', 'a', 'an', 'an')
    """
    first = text.split()[0].lower()
    if re.match(r"uni|use|usa|uk|ufo|euro|one|once", first) and not first.startswith(
        ("unin", "unim")
    ):
        return "a"
    if re.match(r"hour|honest|heir|x-ray|mri|sos", first):
        return "an"
    return "an" if first[0] in "aeiou" else "a"


def takes_no_article(name: str) -> bool:
    """Whether a name stands as it is: "bread", "two swords", "Santa Claus", "grapes"."""
    lower = name.lower()
    if lower in phrases("bare"):
        return True
    if re.match(r"^(a|an|the|two|three|no|one|four|five|several|some|pair)\b", lower):
        return True
    capital = r"^(T-|OK|ATM|Christmas|Japanese|Statue|ID|CD|DVD|TV|UFO)"
    if name[:1].isupper() and not re.match(capital, name):
        return True
    if lower.startswith("flag of"):
        return False
    joints = "of|with|in|on|at|behind|and|for|from|without|showing|under|over|to|holding|wearing"
    head = re.split(rf"\s+(?:{joints})\s+", name)[0].split()[-1].lower().strip("'")
    parts = lower.split()
    portions = ("piece", "slice", "bowl", "cup", "glass", "loaf")
    if head in words("mass") and len(parts) <= 2 and parts[0] not in portions:
        return True
    if head in words("plural"):
        return True
    if head in words("singular") or not head.endswith("s") or head.endswith(("ss", "us", "is")):
        return False
    return singular(head) is not None


def phrase(name: str, color: str | None = None) -> str:
    """A name with its article, and a colour where it belongs: "a red apple", "two red apples", "red grapes"."""
    if name.split()[0] == "Person":
        name = name[0].lower() + name[1:]
    if not takes_no_article(name):
        named = f"{color} {name}" if color else name
        return f"{article(named)} {named}"
    if color is None:
        return name
    if found := re.match(r"^(two|three|four|five|several|some|a|an|the|one)\s+(.*)$", name):
        return f"{found[1]} {color} {found[2]}"
    return f"{color} {name}"


def style_of(one: Drawing) -> tuple[str, str]:
    """Style and the words for it; clip art without colours is a silhouette or line art."""
    said = drawn(one.source)
    style = said["style"], said["phrase"]
    if one.source != "openclipart" or one.name.endswith("sign"):
        return style
    looks = one.seen
    line_art = "line-art", "black and white line art"
    colorless = looks.black + looks.white + looks.gray
    if looks.black + looks.gray > 0.93 and looks.black > 0.80:
        return ("silhouette", "silhouette icon") if looks.solid > 0.22 else line_art
    if colorless > 0.97 and looks.white > 0.40 and looks.gray < 0.30:
        return line_art
    return line_art if one.monochrome and colorless > 0.97 else style


def adjective(one: Drawing, style: str) -> str | None:
    """The measured colour, where it can stand before the name."""
    name = one.name
    if re.search(r"\brainbow\b|\bmoon\b.*face|globe showing|earth", name):
        return None
    if style == "silhouette":
        return "black"
    if one.category in ("people", "smileys", "flags") or words("colors") & set(tokens(name)):
        return None
    if style in ("line-art", "badge", "two-tone", "weather"):
        return None
    counted = r"^(no|non|one|two|three|four|five|six|seven|eight|nine|ten|clock|map|puff|DNA)\b"
    if re.match(counted, name):
        return None
    if name[:1].isupper() and not name.startswith(("T-", "Christmas")):
        return None
    if one.seen.color == "colorful" and len(name.split()) > 3:
        return None
    return one.seen.color


def agrees(text: str, palette: dict[str, float]) -> bool:
    """Whether every colour that a text names is seen.

    >>> agrees("a gold cup", {"yellow": 0.4}), agrees("a red car", {"blue": 0.7, "red": 0.05})
    (True, False)
    """
    called = {
        "golden": ("yellow", "orange", "brown"),
        "gold": ("yellow", "orange", "brown"),
        "silver": ("gray", "white"),
        "grey": ("gray",),
        "violet": ("purple",),
        "magenta": ("pink",),
    }
    named = [word for word in tokens(text) if word in words("colors")]
    return all(
        any(palette.get(color, 0) > 0.12 for color in called.get(word, (word,))) for word in named
    )


def aliases_of(one: Drawing, emoji: Emoji) -> list[str]:
    """Other names of a drawing, at most six, those that people type first."""
    entry = emoji.entries.get(one.emoji) if one.emoji else None
    if entry is None:
        found = [one.raw] if one.raw.lower() != one.name.lower() else []
    else:
        found = list(table("names")["aliases"].get(entry.label, []))
        for name in (*entry.shortcodes, *sorted(emoji.also.get(one.emoji or "", ()))):
            alias = _plain(name)
            if (
                2 < len(alias) < 40
                and not re.search(r"\d|[+:]", alias)
                and concept_of(alias) != concept_of(one.name)
                and all(frequency(word) > 2.4 for word in alias.split())
                and alias not in found
                and emoji.by_name.get(slug(alias)) in (None, one.emoji)
            ):
                found.append(alias)
        if one.tone:
            tone = one.tone.replace("-", " ")
            found = [f"{alias} with {tone} skin tone" for alias in found[:3]]
    return [alias for alias in found if agrees(alias, one.seen.palette)][:6]


def keywords_of(one: Drawing, emoji: Emoji) -> list[str]:
    """Words that go with a drawing, at most ten."""
    entry = emoji.entries.get(one.emoji) if one.emoji else None
    found = [*entry.tags, *map(_plain, entry.keywords)] if entry else []
    kept: list[str] = []
    for keyword in (word.lower() for word in found + one.keywords):
        if (
            re.match(r"^[a-z][a-z '\-]{2,24}$", keyword)
            and keyword not in words("weak_keywords") | words("colors")
            and keyword not in (*kept, one.name.lower())
            and frequency(keyword.split()[0]) > 2.5
        ):
            kept.append(keyword)
    return kept[:10]


def _plain(name: str) -> str:
    return re.sub(r"\s+", " ", name.replace("_", " ").replace("-", " ").strip().lower())


def caption(one: Drawing, emoji: Emoji) -> None:
    """Give a drawing its style, aliases and captions, the best caption first."""
    style, style_phrase = style_of(one)
    color = adjective(one, style)
    plain = one.name if one.category == "flags" else phrase(one.name)
    best = phrase(one.name, color) if color else plain
    badge = "blue" if one.key.endswith("-duo") else (one.seen.color or "colored").split(" and ")[0]
    styled = {
        "silhouette": f"a black silhouette of {plain}",
        "pixel-art": f"pixel art of {best}",
        "line-art": f"black and white line art of {plain}",
        "clip-art": f"clip art of {best}",
        "badge": f"{plain} on a {badge} round badge",
        "two-tone": f"a black and blue two-tone icon of {plain}",
        "weather": f"a weather icon of {plain}",
        "sticker": f"a sticker of {best}",
    }.get(style, f"{best}, {style_phrase}")
    one.style = style
    one.aliases = aliases_of(one, emoji)
    found = [best, plain, one.name]
    if style in ("silhouette", "line-art", "pixel-art", "badge", "two-tone"):
        found.insert(0, styled)
    for alias in one.aliases[:4]:
        colored = color if color and not words("colors") & set(tokens(alias)) else None
        found.append(alias if one.category == "flags" else phrase(alias, colored))
    found.append(styled)
    if keywords := keywords_of(one, emoji):
        found.append(", ".join([one.name, *keywords[:4]]))
    captions: dict[str, str] = {}
    for text in found:
        text = re.sub(r"\s+", " ", text).strip()
        captions.setdefault(text.lower(), text)
    one.captions = [text for text in captions.values() if text][:9]


# --------------------------------------------------------------------------------------------- split


def telling_words(text: str) -> frozenset[str]:
    """The words that tell one concept from another."""
    return frozenset(tokens(text)) - words("connectives")


def split_of(texts: Iterable[str], where: tuple[str, str, str], held_out: dict[str, Any]) -> str:
    """Which part of the data a drawing belongs to.

    `val_concept` if one of its texts has all words of a concept that is held out in every style; `val_style` if its
    concept is held out in the style and source that it has; else `train`.

    Args:
        texts: its concept, aliases and best captions.
        where: concept, style and source.
        held_out: words/held_out.toml.
    """
    if any(_holds(text, held_out["concepts"]) for text in texts):
        return "val_concept"
    concept, style, source = where
    return "val_style" if f"{style} {source}" in held_out["styles"].get(concept, ()) else "train"


def _holds(text: str, concepts: Iterable[str]) -> bool:
    found = telling_words(text)
    return any(telling_words(concept) <= found for concept in concepts)


def assign(one: Drawing, held_out: dict[str, Any]) -> None:
    """Give a drawing its split; one outside `val_concept` loses the captions that would tell of it."""
    texts = [one.concept, *one.aliases, *one.captions[:3]]
    one.split = split_of(texts, (one.concept, one.style, one.source), held_out)
    if one.split != "val_concept":
        best, *others = one.captions
        one.captions = [best] + [text for text in others if not _holds(text, held_out["concepts"])]


# ---------------------------------------------------------------------------------------------- main


def prepare(one: Drawing, packages: Path) -> Drawing:
    """Render a drawing, unless it was, and look at it. One that cannot be rendered has no looks."""
    kept = packages / "drawn" / f"{one.id}.png"
    if not kept.exists():
        half = kept.with_suffix(".part")
        try:
            render(one, packages / "npm" / "node_modules").save(half, "PNG")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # resvg's panics are no Exception
            half.write_bytes(b"")
        half.replace(kept)
    if kept.stat().st_size:
        tile = one.source == "crawl"
        with Image.open(kept) as image:
            centered = center(image.convert("RGBA"), tile=tile)
        outline = drawn(one.source).get("outline", 0.4)
        one.looks = measure(centered, outline=outline, opaque=200 if tile else 100)
    return one


def describe(one: Drawing, emoji: Emoji) -> None:
    """Give a drawing that was looked at its captions, concept and split."""
    caption(one, emoji)
    tone = r" with (medium |)(light|dark|medium) skin tone$"
    one.concept = concept_of(re.sub(tone, "", one.name)) or one.name
    assign(one, table("held_out"))


def encode(one: Drawing, packages: Path) -> bytes:
    """The picture of a drawing as it goes into a shard."""
    with Image.open(packages / "drawn" / f"{one.id}.png") as image:
        return finish(image.convert("RGBA"), tile=one.source == "crawl")


def record(one: Drawing) -> bytes:
    """What a shard says of a drawing, as JSON; a field that would be empty is left out."""
    said = drawn(one.source)
    fields = {
        "captions": one.captions,
        "concept": one.concept,
        "style": one.style,
        "category": one.category,
        "color": one.seen.color,
        "source": one.source,
        "license": said["license"],
        "author": one.author or said["credit"],
        "split": one.split,
    }
    kept = {name: value for name, value in fields.items() if value}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def shards_of(files: Iterable[File]) -> Iterator[list[File]]:
    """Keys, pictures and records, as many at a time as go into a shard of SHARD bytes."""
    members: list[File] = []
    size = 0
    for file in files:
        room = sum(512 + -(-len(data) // 512) * 512 for data in file[1:])
        if members and size + room > SHARD:
            yield members
            members, size = [], 0
        members.append(file)
        size += room
    if members:
        yield members


def write_shards(files: Iterable[File], out: Path) -> int:
    """Write keys, pictures and records into shards, in place of those of before; how many they are."""
    count = 0
    for members in shards_of(files):
        with tarfile.open(out / f"icons64-{count:03}.tar.part", "w") as shard:
            for key, picture, text in members:
                for name, data in ((f"{key}.webp", picture), (f"{key}.json", text)):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    shard.addfile(entry, io.BytesIO(data))
        count += 1
    for path in out.glob("icons64-*.tar"):
        path.unlink()
    for number in range(count):
        name = f"icons64-{number:03}.tar"
        (out / f"{name}.part").rename(out / name)
    return count


def build(packages: Path, out: Path, jobs: int) -> None:
    """The whole of it."""
    (packages / "drawn").mkdir(exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    emoji = load_emoji(packages / "npm" / "node_modules")
    chosen = choose(collect(packages, emoji), emoji)
    _say(f"{len(chosen)} drawings have a name; drawing them")
    with multiprocessing.Pool(jobs) as pool:
        looked = []
        for one in pool.imap(functools.partial(prepare, packages=packages), chosen, chunksize=32):
            looked.append(one)
            if len(looked) % 1000 == 0:
                _say(f"  {len(looked)} of {len(chosen)}")
        why = Counter(reason for one in looked if (reason := refused(one)))
        kept = without_duplicates(one for one in looked if not refused(one))
        why["much like another"] = len(looked) - sum(why.values()) - len(kept)
        _say("left out: " + ", ".join(f"{count} {reason}" for reason, count in why.most_common()))
        for one in kept:
            describe(one, emoji)
        kept.sort(key=lambda one: lot(f"sh{one.id}"))
        pictures = pool.imap(functools.partial(encode, packages=packages), kept, chunksize=32)
        files = (
            (one.id, picture, record(one)) for one, picture in zip(kept, pictures, strict=True)
        )
        shards = write_shards(files, out)
    splits = Counter(one.split for one in kept)
    _say(
        f"{len(kept)} drawings in {shards} shards: "
        + ", ".join(f"{n} {s}" for s, n in splits.items())
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("packages", type=Path, help="what build_data.sh fetched")
    parser.add_argument("out", type=Path, help="gets icons64-NNN.tar")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    asked = parser.parse_args()
    build(asked.packages, asked.out, asked.jobs)


if __name__ == "__main__":
    main()
