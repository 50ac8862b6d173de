"""Figures, pictures and a run's log -> one HTML page that needs nothing else: no script, no network.

`page` puts sections together; the others each make one. Text is escaped here, and nowhere else.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2i_cli.errors import visible
from t2i_cli.images import encode

__all__ = ["Card", "cards", "curve", "heading", "page", "paragraph", "table"]

_NUMBER = re.compile(r"[-–+\d.,%e]+(?: ±[-+\d.e]+)?")  # what is set flush right
_STYLE = """
:root{color-scheme:light dark;--ink:#1d1d1f;--dim:#6b6b70;--line:#dcdce0;--bg:#fff;--soft:#f5f5f7;
--accent:#2563eb}
@media(prefers-color-scheme:dark){:root{--ink:#eee;--dim:#9a9aa2;--line:#3a3a40;--bg:#161618;
--soft:#202024;--accent:#7aa2ff}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--bg);margin:0 auto;
max-width:1080px;padding:24px 20px 64px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 8px}h3{font-size:15px;margin:18px 0 6px}
p{margin:4px 0;max-width:75ch}.dim{color:var(--dim)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums}
th,td{padding:5px 22px 5px 0;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;
white-space:nowrap}
td.text{white-space:normal}td.text:last-child{min-width:24ch}
th:first-child,td:first-child,td.text{text-align:left}
th{font-weight:600;font-size:13px}small{color:var(--dim);white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(112px,1fr));gap:12px;margin:8px 0}
figure{margin:0}figcaption{font-size:12px;line-height:1.3;margin-top:4px;overflow-wrap:anywhere}
.pairs{grid-template-columns:repeat(auto-fill,minmax(190px,1fr))}
.pics{display:flex;gap:4px}
.pics img{width:100%;min-width:0;aspect-ratio:1;object-fit:contain;border:1px solid var(--line);
border-radius:6px;background:#fff;image-rendering:auto}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:16px}
svg{width:100%;height:auto;background:var(--soft);border-radius:6px}
svg polyline{fill:none;stroke:var(--accent);stroke-width:1.5;vector-effect:non-scaling-stroke}
"""


@dataclass(frozen=True)
class Card:
    """A picture, or several side by side, and what is written under it."""

    pictures: Sequence[np.ndarray]  # uint8 (h, w, 3 or 4)
    text: str


def page(title: str, sections: Sequence[str]) -> str:
    """The whole page, as HTML."""
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none';img-src data:;style-src 'unsafe-inline'\">"
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{_safe(title)}</h1>\n{body}\n</body></html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading of level 2 or 3."""
    return f"<h{level}>{_safe(text)}</h{level}>"


def paragraph(text: str, *, dim: bool = False) -> str:
    """A paragraph."""
    return f'<p class="dim">{_safe(text)}</p>' if dim else f"<p>{_safe(text)}</p>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str | tuple[str, str]]]) -> str:
    """A table; a cell is a text, or a text and a smaller one beside it."""
    head = "".join(f"<th>{_safe(name)}</th>" for name in columns)
    lines = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{lines}</tbody></table></div>"
    )


def cards(items: Sequence[Card]) -> str:
    """A grid of pictures with captions."""
    wide = " pairs" if any(len(item.pictures) > 1 for item in items) else ""
    return f'<div class="cards{wide}">' + "\n".join(_card(item) for item in items) + "</div>"


def curve(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One small plot a name; points (x, y), those that are not finite left out; none of what never changes."""
    drawn = [_curve(name, points) for name, points in curves.items()]
    return '<div class="curves">' + "\n".join(part for part in drawn if part) + "</div>"


def _safe(text: object) -> str:
    return html.escape(visible(text, 500))


def _cell(cell: str | tuple[str, str]) -> str:
    if isinstance(cell, tuple):
        return f"<td>{_safe(cell[0])} <small>{_safe(cell[1])}</small></td>"
    if _NUMBER.fullmatch(cell):
        return f"<td>{_safe(cell)}</td>"
    return f'<td class="text">{_safe(cell)}</td>'


def _card(card: Card) -> str:
    pictures = "".join(
        f'<img alt="{_safe(card.text)}" src="data:image/png;base64,'
        f'{base64.b64encode(encode(picture, "png")).decode()}">'
        for picture in card.pictures
    )
    caption = f"<figcaption>{_safe(card.text)}</figcaption>"
    return f'<figure><div class="pics">{pictures}</div>{caption}</figure>'


def _curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    kept = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len({y for _, y in kept}) < 2:
        return ""
    kept = kept[:: max(1, len(kept) // 400)]
    xs, ys = [x for x, _ in kept], [y for _, y in kept]
    wide, tall = max(max(xs) - min(xs), 1e-12), max(max(ys) - min(ys), 1e-12)
    line = " ".join(
        f"{300 * (x - min(xs)) / wide:.1f},{94 - 88 * (y - min(ys)) / tall:.1f}" for x, y in kept
    )
    told = f"{name}: {ys[-1]:.4g}"
    extent = f"{min(ys):.3g} to {max(ys):.3g}"
    return (
        f'<figure><svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{_safe(told)}"><polyline points="{line}"/></svg>'
        f"<figcaption>{_safe(told)} <small>{_safe(extent)}</small></figcaption></figure>"
    )
