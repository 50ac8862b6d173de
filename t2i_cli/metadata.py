"""What made a picture <-> the text that travels inside it.

Three forms: ``parameters`` in the grammar that image browsers of this field read, ``t2i`` as JSON that `t2i
sample --from` replays, and XMP that says in IPTC's words that the picture is generated. Pure text; `images`
and `png` put it into files.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from t2i_cli.errors import InputError, visible
from t2i_cli.noise import MAX_SEED

__all__ = ["MARKS", "Recipe", "from_text", "to_text", "xmp"]

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MAX_TEXT = 1_000_000  # characters of JSON that are read
MAX_ROWS = 1024  # of a sheet
MAX_LISTED = 1000  # references that are named, or files that they come from
_FORMATS = ("png", "webp", "jpg", "gif")
_KINDS = ("picture", "vary", "grid", "morph")


@dataclass(frozen=True)
class Recipe:
    """All that decides a picture's bytes."""

    prompt: str
    seed: int  # of this picture, 0..MAX_SEED
    negative: str | None = None
    guidance: float = 1.0
    steps: int = 1  # of the sampler
    attributes: str = ""  # that were asked for: name=value, several with commas
    references: int = 0  # training pictures that were to be read
    read: tuple[int, ...] = ()  # numbers of those that were
    like: tuple[str, ...] = ()  # hexadecimal SHA-256 of files that were read in their place
    truncation: float = 1.0
    best_of: int = 1  # how many seeds were drawn for it, the best kept; `seed` is the first of them
    picked: int | None = None  # the seed that was kept
    scale: int = 1  # each pixel becomes scale x scale
    background: str = ""  # a colour, or nothing: as the model draws it
    format: str = "png"
    model: str = ""  # title or file name
    model_hash: str = ""  # hexadecimal SHA-256 of the model's tensors
    runtime: str = ""  # what computed it, such as onnxruntime-cpu
    version: str = ""  # of t2i
    kind: str = "picture"  # picture, vary, grid, morph
    # a sheet's rows: prompt, first seed, pictures, negative prompt, guidance, attributes
    sheet: tuple[tuple[str, int, int, str, float, str], ...] = ()
    to: str = ""  # the prompt that a morph goes to
    frames: int | None = None  # of a morph, one way
    strength: float | None = None  # of a relative: how far from its source
    source: str = ""  # hexadecimal SHA-256 of the file that it is a relative of
    first: int | None = None  # seed that the source's noise was looked for from
    literal: bool = False  # whether prompts were read letter for letter


def to_text(recipe: Recipe, width: int, height: int) -> dict[str, str]:
    """The text of a picture's file: keyword -> text, ``parameters`` and ``t2i``.

    Args:
        recipe: what made the picture.
        width: px, of the file.
        height: px, of the file.
    """
    data = {
        name: value
        for name, value in dataclasses.asdict(recipe).items()
        if value is not False and value not in (None, "", ())
    }
    return {"parameters": parameters(recipe, width, height), "t2i": json.dumps(data)}


def parameters(recipe: Recipe, width: int, height: int) -> str:
    """The prompt, then ``Negative prompt:``, then one line of ``Key: value`` pairs.

    >>> print(parameters(Recipe("a red cat", 7, steps=8, model="icons", model_hash="0123456789abcdef"), 64, 64))
    a red cat
    Steps: 8, Sampler: t2i flow, CFG scale: 1, Seed: 7, Size: 64x64, Model hash: 0123456789, Model: icons
    """
    pairs: list[tuple[str, object]] = [
        ("Steps", recipe.steps),
        ("Sampler", "t2i flow"),
        ("CFG scale", f"{recipe.guidance:g}"),
        ("Seed", recipe.seed if recipe.picked is None else recipe.picked),
        ("Size", f"{width}x{height}"),
    ]
    if recipe.model_hash:
        pairs.append(("Model hash", recipe.model_hash[:10]))
    if recipe.model:
        pairs.append(("Model", recipe.model))
    if recipe.attributes:
        pairs.append(("Attributes", recipe.attributes))
    if recipe.read:
        pairs.append(("References", " ".join(map(str, recipe.read))))
    if recipe.truncation != 1.0:
        pairs.append(("Truncation", f"{recipe.truncation:g}"))
    if recipe.best_of > 1:
        pairs.append(("Best of", recipe.best_of))
    if recipe.version:
        pairs.append(("Version", f"t2i {recipe.version}"))
    lines = [_one_line(recipe.prompt)]
    if recipe.negative:
        lines.append(f"Negative prompt: {_one_line(recipe.negative)}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs))
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return visible(re.sub(r"[\r\n\t]+", " ", text), 100_000)


def _quoted(value: object) -> str:
    text = visible(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text


def from_text(text: Mapping[str, str], name: str) -> Recipe:
    """The recipe that a picture's text holds.

    Args:
        text: keyword -> text, as `images.read_text` gives it.
        name: what an error calls the picture.

    Raises:
        InputError: no ``t2i`` text, or one that no version of this tool wrote.
    """
    raw = text.get("t2i")
    if raw is None:
        raise InputError(
            f"{name}: holds no t2i metadata", "it was not made by t2i, or with --no-metadata"
        )
    try:
        if len(raw) > MAX_TEXT:
            raise ValueError("too long")
        data = json.loads(raw)
        if not isinstance(data, dict):
            raise ValueError("not an object")
        given = cast("dict[str, Any]", data)
        values: dict[str, Any] = {}
        for item in dataclasses.fields(Recipe):
            if item.name in given:
                values[item.name] = _checked(item.name, given[item.name])
        return Recipe(**values)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{name}: its t2i metadata is not valid: {error}") from None


def _checked(name: str, value: object) -> object:
    bounds: dict[str, tuple[float, float]] = {
        "seed": (0, MAX_SEED), "picked": (0, MAX_SEED), "guidance": (0, 100), "truncation": (0, 10),
        "steps": (1, 1000), "references": (0, 64),
        "best_of": (1, 1000), "scale": (1, 64), "frames": (2, 1000), "strength": (0, 1), "first": (0, MAX_SEED),
    }  # fmt: skip
    if name == "sheet":
        return _rows(value)
    if name in ("read", "like"):
        return _short_list(name, value)
    if name == "literal":
        if not isinstance(value, bool):
            raise ValueError("literal is not true or false")
        return value
    if name in bounds:
        low, high = bounds[name]
        whole = name not in ("guidance", "truncation", "strength")
        if (
            isinstance(value, bool)
            or not isinstance(value, int if whole else (int, float))
            or not low <= value <= high
        ):
            raise ValueError(f"{name} = {str(value)[:40]}")
        return value if whole else float(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} is not text")
    value.encode("utf-8")
    if value not in {"format": _FORMATS, "kind": _KINDS}.get(name, (value,)):
        raise ValueError(f"{name} {value[:40]}")
    return value


def _short_list(name: str, value: object) -> tuple[Any, ...]:
    """Numbers of references, or SHA-256 of files."""
    listed = cast("list[Any]", value) if isinstance(value, list) else [None]

    def fits(one: object) -> bool:
        if name == "read":
            return type(one) is int
        return isinstance(one, str) and re.fullmatch("[0-9a-f]{64}", one) is not None

    if len(listed) > MAX_LISTED or not all(map(fits, listed)):
        raise ValueError(f"{name} is not a short list")
    return tuple(listed)


def _rows(value: object) -> tuple[tuple[Any, ...], ...]:
    """The rows of a sheet, each checked; together they ask for no more than `MAX_ROWS` pictures."""
    if not isinstance(value, list) or len(cast("list[Any]", value)) > MAX_ROWS:
        raise ValueError("sheet is not a list of rows")
    rows: list[tuple[Any, ...]] = []
    for row in cast("list[Any]", value):
        if not isinstance(row, list) or len(cast("list[Any]", row)) != 6:
            raise ValueError(
                "a sheet's row is not prompt, seed, pictures, negative, guidance, attributes"
            )
        prompt, seed, count, negative, guidance, attributes = cast("list[Any]", row)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_ROWS:
            raise ValueError("pictures of a sheet's row")
        rows.append(
            (
                _checked("prompt", prompt),
                _checked("seed", seed),
                count,
                _checked("negative", negative),
                _checked("guidance", guidance),
                _checked("attributes", attributes),
            )
        )
    if sum(row[2] for row in rows) > MAX_ROWS:
        raise ValueError("more pictures than a sheet holds")
    return tuple(rows)


_SAYS = (
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{GENERATED}"'
)
# bytes of which every file that `sample` writes holds one, GIFs aside: its XMP, or its recipe in a PNG
MARKS = (_SAYS.encode(), b"tEXtt2i\0{", b"iTXtt2i\0")


def xmp(recipe: Recipe | None = None) -> str:
    """An XMP packet: IPTC's DigitalSourceType, and with a recipe the tool that made the picture."""
    tool = f' xmp:CreatorTool="t2i {recipe.version}"' if recipe and recipe.version else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {_SAYS}{tool}/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
