"""Make the slice of drawings in this folder from icons64 shards: `python make_slice.py DATA [OUT]`.

DATA holds tar shards with KEY.webp and KEY.json (captions, concept, style, category, color, source, license, author,
split). OUT, this folder if not given, gets images/, metadata.jsonl and CREDITS.md.

The rule, fixed so that anyone gets the same slice from the same shards:

1. licence MIT, Apache-2.0 or Public-Domain; split `train`; one of five clean colour styles;
2. concrete things: animals and plants, food, objects, activities, vehicles and places; a name of one or two words;
3. one colour that its pixels were measured to have (no "colorful", no "red and white");
4. things that three or more of the five styles draw, one drawing a style; and hearts and circles of a named colour,
   which teach the words for colours;
5. of these, category by category, first the things with the most colours and styles, up to a number of drawings each.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

LICENSES = ("MIT", "Apache-2.0", "Public-Domain")
STYLES = ("flat", "fluent", "3d", "noto", "noto-v1")
FIELDS = ("concept", "style", "category", "color", "license", "author", "source")
SHAPES = ("heart", "circle")
DRAWINGS = {
    "animals & nature": 175,
    "food & drink": 155,
    "objects": 100,
    "activities": 38,
    "travel & places": 70,
    "shapes": 62,
}
FLUENT, NOTO = (
    "https://github.com/microsoft/fluentui-emoji",
    "https://github.com/googlefonts/noto-emoji",
)
CREDITS = {
    "fluent3d": ("Microsoft Fluent Emoji, 3D", "npm: @lobehub/fluent-emoji-3d 1.1.0", FLUENT),
    "fluent": ("Microsoft Fluent Emoji", "npm: @iconify-json/fluent-emoji 1.2.7", FLUENT),
    "fluentflat": (
        "Microsoft Fluent Emoji, flat",
        "npm: @iconify-json/fluent-emoji-flat 1.2.6",
        FLUENT,
    ),
    "noto": ("Google Noto Emoji", "npm: @iconify-json/noto 1.2.9", NOTO),
    "notov1": ("Google Noto Emoji, version 1", "npm: @iconify-json/noto-v1 1.2.5", NOTO),
}

Drawing = tuple[str, bytes, dict[str, Any]]  # key, file, what is said of it


def read(folder: Path) -> list[Drawing]:
    """Every drawing of the main shards, in the order of their keys."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for shard in sorted(folder.glob("icons64-*.tar")):
        with tarfile.open(shard, "r|") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None:
                    key, _, kind = member.name.rpartition(".")
                    found[key][kind] = content.read()
    return [(key, files["webp"], json.loads(files["json"])) for key, files in sorted(found.items())]


def group(said: dict[str, Any]) -> str:
    """The category, or `shapes` for a heart or circle whose name is its measured colour."""
    return (
        "shapes"
        if said["concept"] in [f"{said.get('color')} {shape}" for shape in SHAPES]
        else said["category"]
    )


def fits(said: dict[str, Any]) -> bool:
    """Rules 1 to 3."""
    color = said.get("color") or ""
    return (
        said["split"] == "train"
        and said["license"] in LICENSES
        and said["source"] in CREDITS
        and said["style"] in STYLES
        and group(said) in DRAWINGS
        and len(said["concept"].split()) <= 2
        and color != ""
        and color != "colorful"
        and " and " not in color
    )


def choose(drawings: list[Drawing]) -> list[Drawing]:
    """Rules 4 and 5."""
    things: dict[tuple[str, str], dict[str, Drawing]] = defaultdict(dict)
    for drawing in drawings:
        said = drawing[2]
        if fits(said):
            things[group(said), said["concept"]].setdefault(said["style"], drawing)
    chosen: list[Drawing] = []
    for name, most in DRAWINGS.items():
        least = 2 if name == "shapes" else 3
        named = [
            (concept, found)
            for (kind, concept), found in things.items()
            if kind == name and len(found) >= least
        ]

        def worth(item: tuple[str, dict[str, Drawing]]) -> tuple[int, int, int, str]:
            concept, found = item
            return (
                -len(found),
                -len({one[2]["color"] for one in found.values()}),
                len(concept.split()),
                concept,
            )

        count = 0
        for _, found in sorted(named, key=worth):
            if count + len(found) <= most:
                chosen += found.values()
                count += len(found)
    return sorted(chosen)


def write(chosen: list[Drawing], out: Path) -> None:
    """The folder: images/KEY.webp, metadata.jsonl and CREDITS.md."""
    shutil.rmtree(out / "images", ignore_errors=True)
    (out / "images").mkdir(parents=True)
    rows: list[str] = []
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    for key, content, said in chosen:
        name = f"images/{key}.webp"
        (out / name).write_bytes(content)
        row = {"file_name": name, "captions": said["captions"]}
        row |= {
            field: said[field]
            for field in ("concept", "style", "category", "color", "license", "author", "source")
        }
        rows.append(json.dumps(row, ensure_ascii=False))
        counts[said["source"], said["license"], said["author"]] += 1
    (out / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    lines = [
        "# Credits",
        "",
        f"{len(chosen)} drawings, 64 x 64 px, from these sets. `metadata.jsonl` names the source, author and",
        "licence of each. They were rendered at 64 px and captioned, and are otherwise unchanged. `make_slice.py`",
        "chose them.",
        "",
        "| set | author | licence | drawings | taken from | home |",
        "|---|---|---|---|---|---|",
    ]
    for (source, license, author), count in sorted(counts.items()):
        title, package, home = CREDITS[source]
        lines.append(f"| {title} | {author} | {license} | {count} | {package} | {home} |")
    lines += [
        "",
        "Caption words come from emojibase-data (MIT), emojilib (MIT) and Unicode CLDR short names and keywords",
        "(Unicode-3.0); colour words were measured from the pixels.",
        "",
        "- MIT: https://opensource.org/license/mit. Fluent Emoji: Copyright (c) Microsoft Corporation.",
        "- Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0. Noto Emoji: Copyright Google LLC.",
    ]
    (out / "CREDITS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    here = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent
    slice_ = choose(read(Path(sys.argv[1])))
    write(slice_, here)
    print(
        f"{len(slice_)} drawings of {len({one[2]['concept'] for one in slice_})} things in {here}"
    )
