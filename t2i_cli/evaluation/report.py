"""An evaluation -> the rows of its tables, and one self-contained HTML page."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from pathlib import Path

from t2i_cli.checkpoint import write_atomic
from t2i_cli.evaluation import page
from t2i_cli.evaluation.metrics import Estimate
from t2i_cli.evaluation.results import Evaluation, Subject
from t2i_cli.evaluation.scores import SCORES

__all__ = ["calibration_columns", "calibration_rows", "report", "rows", "write_report"]


def report(evaluation: Evaluation) -> str:
    """The evaluation as one self-contained HTML page."""
    measured, real = evaluation.measured(), evaluation.real()
    sections = [
        page.paragraph(
            f"{evaluation.count} pictures of each, against {evaluation.reference}. Features: "
            f"{evaluation.features_note}. Text: {evaluation.text_features}."
        ),
        *(page.paragraph(f"Note: {text}.") for text in evaluation.warnings),
        page.paragraph("Figures under different features or counts do not compare.", dim=True),
        page.table(["", *(subject.name for subject in evaluation.subjects), ""], rows(evaluation)),
        *_calibration(evaluation),
    ]
    for subject in measured:
        sections += [page.heading(subject.name), *_gallery(subject), *_pairs(evaluation, subject)]
        for key in ("style", "category", "split"):
            reached = real.breakdown(key)
            lines: list[list[str | tuple[str, str]]] = [
                [
                    name,
                    str(row["similarity"].count),
                    *(_beside(row, reached.get(name, {}), score) for score in _BY),
                ]
                for name, row in subject.breakdown(key).items()
            ]
            if lines:
                sections += [
                    page.heading(f"By {key}", 3),
                    page.table([key, "pictures", *(SCORES[name].label for name in _BY)], lines),
                ]
        sections += _curves(subject)
    return page.page("How good: " + ", ".join(subject.name for subject in measured), sections)


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write `report` to a file, whole or not at all.

    Raises:
        OutputError: it could not be written.
    """
    write_atomic(path, report(evaluation).encode())


def rows(evaluation: Evaluation) -> list[list[str]]:
    """The table: a row a score, a column a subject, and last what the score means."""
    return [
        [
            _label(evaluation, name),
            *(
                _figure(subject.scores[name]) if name in subject.scores else "–"
                for subject in evaluation.subjects
            ),
            f"{SCORES[name].meaning} ({SCORES[name].better})",
        ]
        for name in evaluation.scores
        if any(name in subject.scores for subject in evaluation.subjects)
    ]


def calibration_columns(evaluation: Evaluation) -> list[str]:
    """The heads of `calibration_rows`: models, real pictures, damaged ones, what is told apart."""
    shown = [*evaluation.measured(), evaluation.real(), *evaluation.calibration]
    return ["score", *(subject.name for subject in shown), "tells from real"]


def calibration_rows(evaluation: Evaluation) -> list[list[str]]:
    """The calibration table: a row a score, without intervals; empty where nothing was calibrated.

    The last column counts, and names if few are missing, the damaged pictures that the score finds worse
    than real ones.
    """
    if not evaluation.calibration:
        return []
    shown = [*evaluation.measured(), evaluation.real(), *evaluation.calibration]
    found: list[list[str]] = []
    for name in evaluation.scores:
        told = evaluation.tells_apart(name)
        figures = [
            _figure(dataclasses.replace(subject.scores[name], error=0.0))
            if name in subject.scores
            else "–"
            for subject in shown
        ]
        found.append([_label(evaluation, name), *figures, ", ".join(told) or "none of them"])
    return found


def _label(evaluation: Evaluation, score: str) -> str:
    """KID and FD say by which features."""
    label = SCORES[score].label
    return f"{label}, {evaluation.features}" if score in ("kid", "fd") else label


def _calibration(evaluation: Evaluation) -> list[str]:
    """What damaged real pictures reach, and eight of each."""
    if not evaluation.calibration:
        return []
    found = [
        page.heading("Calibration: real pictures damaged in known ways"),
        page.paragraph(
            "As many other held-out pictures, each kind measured as a model is. A score that does not "
            "tell a kind from real pictures does not measure what it lacks.",
            dim=True,
        ),
        page.table(calibration_columns(evaluation), calibration_rows(evaluation)),
    ]
    for subject in evaluation.calibration:
        count = min(8, len(subject.pictures))
        items = [page.Card([subject.pictures[i]], subject.captions[i]) for i in range(count)]
        found += [page.heading(subject.name, 3), page.cards(items)]
    return found


_BY = ("retrieval", "similarity", "colour")


def _figure(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    error = f" ±{estimate.error:.2g}" if estimate.error > 0 else ""
    return f"{round(estimate.value, 4):.3g}{error}"


def _beside(
    row: dict[str, Estimate], real: dict[str, Estimate], score: str
) -> str | tuple[str, str]:
    """A figure, and in small print what real pictures reach."""
    if score not in real or math.isnan(real[score].value):
        return _figure(row[score])
    return _figure(row[score]), f"real {real[score].value:.2g}"


def _gallery(subject: Subject) -> list[str]:
    """The best, the middle and the worst pictures by their caption."""
    if not len(subject.similarity):
        return []
    order = (subject.hits.double() + 1e-3 * subject.similarity).argsort(descending=True).tolist()
    middle = len(order) // 2
    parts = {
        "Best by caption": order[:16],
        "Median": order[max(0, middle - 8) : middle + 8],
        "Worst": order[-16:][::-1],
    }
    found: list[str] = []
    for title, chosen in parts.items():
        items = [page.Card([subject.pictures[i]], subject.captions[i]) for i in chosen]
        found += [page.heading(title, 3), page.cards(items)]
    return found


def _pairs(evaluation: Evaluation, subject: Subject) -> list[str]:
    """The pictures that are nearest to a training picture, beside it."""
    if not len(subject.distance):
        return []
    nearest = subject.distance.argsort()[:16].tolist()
    items = [
        page.Card(
            [subject.pictures[i], evaluation.images.pixels[evaluation.train[subject.nearest[i]]]],
            f"{subject.captions[i]} · {float(subject.distance[i]):.2f}",
        )
        for i in nearest
    ]
    return [
        page.heading("Nearest to a training picture", 3),
        page.paragraph("Drawn, training picture, distance; 1 is usual for a real one.", dim=True),
        page.cards(items),
    ]


def _curves(subject: Subject) -> list[str]:
    """Plots of a run's log, one of each number in it."""
    passed = {"step", "stage_progress", "progress", "images", "eta_s", "time", "seconds"}
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in subject.log:
        for key, value in row.items():
            if key not in passed and isinstance(value, int | float) and "step" in row:
                curves[key].append((float(row["step"]), float(value)))
    told = [
        f"{item['signal']}: {item['text']}"
        for row in subject.log
        if isinstance(row.get("advice"), list)
        for item in row["advice"]
        if isinstance(item, dict) and {"signal", "text"} <= set(item)
    ]
    found = [page.heading("The run's log", 3), page.curve(curves)] if curves else []
    if told:
        found.append(page.heading("What it said while it trained", 3))
    return found + [page.paragraph(text) for text in dict.fromkeys(told)]
