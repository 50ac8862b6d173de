"""Can people name what a model draws? Numbered sheets of drawn and real pictures, and the score of what readers say.

    python -m benchmarks.blind_naming draw MODEL OUT --data DATA [--part tune|final] [--seed S] [--option NAME=VALUE]
    python -m benchmarks.blind_naming score OUT/key.json ANSWERS.csv [ANSWERS.csv ...]

`draw` writes OUT/sheets/sheet-01.png and so on (ten pictures each, numbered, 256 px), OUT/answers.csv to fill in and
OUT/key.json. Half of the pictures are drawn from the prompts of `benchmarks.naming_prompts`, half are held-out real
drawings. A reader sees the sheets and answers.csv alone: neither the prompts nor the key, nor this repository.

Answers: number, name (what it shows), second (another guess, may be empty), quality (0 unusable, 1 poor,
2 acceptable, 3 professional). `score` counts a picture as named where the first or the second guess is right; what
is right, `matches` says. A colour asked for need not be named.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.naming_prompts import FINAL, REAL, TUNE
from t2i_cli import checkpoint, data, images, load
from t2i_cli.data import CaptionedImages
from t2i_cli.evaluation.colours import COLOURS

SIDE = 256  # px of a picture on a sheet
ACROSS, PER_SHEET = 5, 10  # pictures
PAPER = (236, 239, 243)  # light, and not white, so that white things show
PARTS = {"final": FINAL, "tune": TUNE}
FIELDS = ("number", "name", "second", "quality")
EVERYDAY = ("objects", "animals & nature", "food & drink", "activities", "travel & places")

# --- names ------------------------------------------------------------------------------------------

COLOUR_WORDS = {*COLOURS, "grey", "violet", "turquoise", "cyan", "beige", "gold", "golden", "silver", "colorful",
    "colourful", "dark", "light", "bright"}  # fmt: skip
# words that say nothing of what a thing is
IDLE = {"a", "an", "the", "of", "some", "icon", "picture", "drawing", "symbol", "emoji", "cartoon", "face", "head",
    "pair", "slice", "piece", "cute", "little", "small", "big", "two", "three"}  # fmt: skip
ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"))  # of plurals
ODD = {"bus": "bus", "buses": "bus", "octopus": "octopus", "cactus": "cactus", "cacti": "cactus", "fungus": "fungus",
    "glasses": "glass", "mice": "mouse", "men": "man", "women": "woman", "children": "child", "feet": "foot",
    "teeth": "tooth", "leaves": "leaf", "loaves": "loaf", "knives": "knife", "geese": "goose", "dice": "die",
    "cookies": "cookie", "movies": "movie", "ties": "tie", "pies": "pie", "axes": "axe"}  # fmt: skip
# their last word is another thing
COMPOUNDS = ("hot dog", "computer mouse", "guinea pig", "sea horse", "sea lion", "ice cream", "light bulb",
    "light house", "rocking horse", "teddy bear", "fire fly", "snow man", "pine apple", "rail car", "cable car",
    "green house", "dragon fly", "butter fly", "crystal ball", "street light", "traffic light", "sun flower",
    "key board", "note book")  # fmt: skip
_JOINED = {words: words.replace(" ", "") for words in COMPOUNDS}
_REST = re.compile(r"\b(with|in|on|and|or|showing|without|behind|from|for|under|at)\b")


def words_of(name: str) -> list[str]:
    """The words of a name that count: lower case, no accents, singular, without articles and colours.

    A colour counts where it is all there is (the fruit). Compounds that are another thing than their last word are one
    word.

    >>> words_of("Two little Red hot-dogs"), words_of("an orange"), words_of("a cup of coffee")
    (['hotdog'], ['orange'], ['cup', 'coffee'])
    """
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    text = " ".join(_singular(word) for word in re.findall(r"[a-z0-9]+", plain.replace("'s", "")))
    for words, joined in _JOINED.items():
        text = re.sub(rf"\b{words}\b", joined, text)
    found = [word for word in text.split() if word not in IDLE]
    return [word for word in found if word not in COLOUR_WORDS] or found


def _singular(word: str) -> str:
    if word in ODD:
        return ODD[word]
    for ending, single in ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word.removesuffix(ending) + single
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def matches(guess: str, accepted: str) -> bool:
    """Whether a guess names the accepted thing. Generous: more words never hurt, and the thing's own word is enough.

    It does where it holds every word of the accepted name, or the word that says what the thing is: the last one
    before "with", "in", "on" and the like. Two words may be written as one.

    >>> matches("old bikes", "bike"), matches("truck", "a delivery truck"), matches("tea pot", "a teapot")
    (True, True, True)
    >>> matches("hot dog", "a dog"), matches("pineapple", "an apple"), matches("", "a dog")
    (False, False, False)
    """
    said, right = words_of(guess), words_of(accepted)
    if not said or not right:
        return False
    thing = words_of(_REST.split(accepted.lower())[0]) or right
    known = {*said, *(a + b for a, b in itertools.pairwise(said)), "".join(said)}
    return set(right) <= known or thing[-1] in known or "".join(right) in known


def is_named(guesses: Sequence[str], accepted: Sequence[str]) -> bool:
    """Whether one of the guesses matches one of the accepted names."""
    return any(matches(guess, name) for guess in guesses for name in accepted)


# --- drawing ----------------------------------------------------------------------------------------


def draw(
    model: str,
    out: Path,
    where: Path,
    part: str = "final",
    seed: int = 0,
    style: str = "fluent",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write sheets, the key and an empty answers file.

    Args:
        model: file, run folder or shipped name.
        out: a folder; must not hold a key.
        where: captioned data with held-out pictures.
        part: "final" or "tune", the prompts.
        seed: of the pictures, of the choice of real drawings, and of the numbers.
        style: of the real drawings, as far as there are enough.
        options: more arguments of `Model.sample`, such as guidance.

    Returns:
        The key.
    """
    if (out / "key.json").exists():
        raise SystemExit(f"{out}/key.json is already there: name another folder")
    prompts, chosen = PARTS[part], dict(options or {})
    loaded = load(model)
    items: list[tuple[dict[str, Any], np.ndarray]] = []
    for i, (prompt, names) in enumerate(prompts.items()):
        picture = loaded.sample(prompt, seed * 1000 + i, **chosen)
        item = {"kind": "drawn", "prompt": prompt, "accepted": [prompt, *names], "seed": seed * 1000 + i,
            "colour": bool({*prompt.split()} & COLOUR_WORDS)}  # fmt: skip
        items.append((item, np.asarray(picture)))
    height, width, channels = items[0][1].shape
    pictures = data.load(where, max(height, width), image_channels=channels)
    for row in real_rows(pictures, len(prompts), part, seed, style):
        names = real_names(pictures, row)
        item = {
            "kind": "real",
            "prompt": names[0],
            "accepted": names,
            "source": pictures.names[row],
        }
        items.append((item, np.array(pictures.pixels[row])))
    order = np.random.default_rng([seed, len(prompts)]).permutation(len(items))
    numbered = [items[i] for i in order]
    for number, (item, _) in enumerate(numbered, 1):
        item["number"] = number
    weights = checkpoint.resolve_model(model)
    key = {
        "model": model,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "part": part,
        "seed": seed,
        "options": chosen,
        "items": [item for item, _ in numbered],
    }
    for start in range(0, len(numbered), PER_SHEET):
        block = numbered[start : start + PER_SHEET]
        page = sheet([pixels for _, pixels in block], start + 1)
        path = out / "sheets" / f"sheet-{start // PER_SHEET + 1:02}.png"
        checkpoint.write_atomic(path, images.encode(page))
    blank = ",".join(FIELDS) + "\n" + "".join(f"{i},,,\n" for i in range(1, len(numbered) + 1))
    checkpoint.write_atomic(out / "answers.csv", blank.encode())
    checkpoint.write_atomic(
        out / "key.json", json.dumps(key, indent=1, ensure_ascii=False).encode()
    )
    return key


def real_rows(pictures: CaptionedImages, count: int, part: str, seed: int, style: str) -> list[int]:
    """Held-out drawings: one a concept, everyday things, the style first; parts share no concept."""
    held_out = pictures.split(0.02, 0)[1].tolist()
    draw_order = np.random.default_rng(seed).permutation(len(held_out))
    best: dict[
        str, tuple[tuple[bool, bool], int]
    ] = {}  # concept -> how far from what is wanted, row
    for i in draw_order:
        row = held_out[i]
        meta, concept = pictures.attributes[row], real_names(pictures, row)[0]
        if meta.get("category", EVERYDAY[0]) not in EVERYDAY or len(words_of(concept)) > 2:
            continue
        rank = (meta.get("style", style) != style, pictures.splits[row] != "val_style")
        if concept not in best or rank < best[concept][0]:
            best[concept] = (rank, row)
    ours = [
        (rank[0], order, row)
        for order, (concept, (rank, row)) in enumerate(best.items())
        if (hashlib.sha256(concept.encode()).digest()[0] % 3 == 0) == (part == "tune")
    ]
    return [row for _, _, row in sorted(ours)[:count]]


def real_names(pictures: CaptionedImages, row: int) -> list[str]:
    """What a real drawing may be called: its concept, and its captions that list no keywords or style."""
    captions = [text for text in pictures.captions[row] if "," not in text]
    concept = pictures.attributes[row].get("concept")
    names = [concept, *captions, *REAL.get(concept, ())] if isinstance(concept, str) else captions
    return list(dict.fromkeys(names)) or [pictures.captions[row][0]]


def sheet(pictures: Sequence[np.ndarray], first: int) -> np.ndarray:
    """Up to ten pictures, uint8 (h, w, 3 or 4), numbered from `first` -> one page, uint8 (H, W, 3)."""
    gap, label = 24, 40
    down = -(-len(pictures) // ACROSS)
    size = (gap + ACROSS * (SIDE + gap), gap + down * (SIDE + label + gap))
    page = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(28)
    for i, pixels in enumerate(pictures):
        left = gap + i % ACROSS * (SIDE + gap)
        top = gap + i // ACROSS * (SIDE + label + gap)
        times = max(1, SIDE // max(pixels.shape[:2]))
        flat = images.flatten(pixels, PAPER).repeat(times, 0).repeat(times, 1)
        picture = images.to_pil(flat)
        if max(picture.size) > SIDE:
            picture = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        pen.text((left, top), str(first + i), fill=(30, 30, 30), font=font)
        page.paste(picture, (left, top + label))
    return np.array(page)


# --- scoring ----------------------------------------------------------------------------------------


def read_answers(path: Path, count: int) -> dict[int, dict[str, Any]]:
    """Number -> name, second, quality, from a CSV file with those columns.

    Raises:
        SystemExit: a number is missing, twice or unknown, or a quality is not 0 to 3; the message says which.
    """
    found: dict[int, dict[str, Any]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        if tuple(rows.fieldnames or ()) != FIELDS:
            raise SystemExit(f"{path}: the first line must be {','.join(FIELDS)}")
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            number, quality = (row["number"] or "").strip(), (row["quality"] or "").strip()
            if not number.isdecimal() or not 1 <= int(number) <= count or int(number) in found:
                raise SystemExit(f"{where}: number {number!r} is unknown or there twice")
            if quality not in ("0", "1", "2", "3"):
                raise SystemExit(f"{where}: quality {quality!r}: give 0, 1, 2 or 3")
            names = [(row[field] or "").strip() for field in ("name", "second")]
            found[int(number)] = {"guesses": names, "quality": int(quality)}
    if missing := sorted({*range(1, count + 1)} - {*found}):
        raise SystemExit(f"{path}: no answer for {', '.join(map(str, missing))}")
    return found


def score(key: Mapping[str, Any], answers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What one reader named: a row each for drawn, drawn with a colour asked for, and real, and what was missed."""
    groups: dict[str, list[tuple[bool, int]]] = {
        "drawn": [],
        "drawn, with a colour": [],
        "real": [],
    }
    missed: list[dict[str, Any]] = []
    for item in key["items"]:
        answer = answers[item["number"]]
        result = (is_named(answer["guesses"], item["accepted"]), answer["quality"])
        groups[item["kind"]].append(result)
        if item.get("colour"):
            groups["drawn, with a colour"].append(result)
        if not result[0]:
            missed.append(
                {"number": item["number"], "kind": item["kind"], "prompt": item["prompt"], "read": answer["guesses"]}
            )  # fmt: skip
    figures = {
        kind: {
            "pictures": len(results),
            "named": sum(named for named, _ in results),
            "quality": round(sum(quality for _, quality in results) / len(results), 2),
        }
        for kind, results in groups.items()
        if results
    }
    return {**figures, "missed": missed}


# --- the command ------------------------------------------------------------------------------------


def option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON or as it stands.

    >>> option("guidance=2.5"), option("style=fluent")
    (('guidance', 2.5), ('style', 'fluent'))
    """
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE, for example guidance=2")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing = verbs.add_parser("draw", help="write sheets, key and an empty answers file")
    drawing.add_argument("model")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("--data", type=Path, required=True, help="held-out drawings to mix in")
    drawing.add_argument("--part", choices=sorted(PARTS), default="final")
    drawing.add_argument("--seed", type=int, default=0)
    drawing.add_argument("--style", default="fluent", help="of the real drawings")
    drawing.add_argument("--option", type=option, action="append", default=[], metavar="NAME=VALUE",
        help="an argument of Model.sample; may be repeated")  # fmt: skip
    scoring = verbs.add_parser("score", help="compare answers with the key; a reader a file")
    scoring.add_argument("key", type=Path)
    scoring.add_argument("answers", type=Path, nargs="+")
    scoring.add_argument("--missed", action="store_true", help="also what was not named")
    asked = parser.parse_args(arguments)
    if asked.verb == "draw":
        key = draw(
            asked.model,
            asked.out,
            asked.data,
            asked.part,
            asked.seed,
            asked.style,
            dict(asked.option),
        )
        print(
            f"{asked.out}/sheets: {len(key['items'])} pictures; answers go to {asked.out}/answers.csv",
            file=sys.stderr,
        )
        return
    key = json.loads(asked.key.read_text("utf-8"))
    for path in asked.answers:
        found = score(key, read_answers(path, len(key["items"])))
        if not asked.missed:
            found.pop("missed")
        print(json.dumps({"reader": path.stem, **found}, ensure_ascii=False))


if __name__ == "__main__":
    main()
