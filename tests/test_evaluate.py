"""Evaluation of tiny models and folders: what is measured, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from t2i_cli import data, models
from t2i_cli.checkpoint import save_model
from t2i_cli.config import ModelConfig, TextEncoderConfig
from t2i_cli.errors import DataError, ThresholdError, UsageError, WeightsError
from t2i_cli.evaluate import EvalSettings, evaluate
from t2i_cli.evaluation.calibration import ANOTHER, DAMAGES
from t2i_cli.evaluation.features import load_encoder
from t2i_cli.evaluation.report import (
    calibration_columns,
    calibration_rows,
    report,
    rows,
    write_report,
)
from t2i_cli.evaluation.results import Evaluation
from t2i_cli.evaluation.scores import (
    METRICS,
    SCORES,
    Condition,
    chosen_scores,
    hold,
    parse_condition,
)
from t2i_cli.images import encode
from t2i_cli.tokenizer import train_tokenizer
from tests.toys import awaken


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained model of 32 px and a short log."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("run")
    tokenizer = train_tokenizer(["a red ball", "a blue bar", "ein grünes Haus"] * 4, 320)
    config = ModelConfig(
        size="custom", resolution=32, cells=4, latent_channels=4, patch=4,
        encoder_channels=(16, 16), decoder_channels=(16, 16), channels=(32, 32), blocks=1,
        image_encoder_channels=(16, 16),
        text=TextEncoderConfig(vocab_size=tokenizer.vocab_size, context_length=16, dim=32, depth=1),
    )  # fmt: skip
    networks = models.build(config)
    awaken(networks)
    parts = {name: part.state_dict() for name, part in networks.named_children()}
    save_model(run / "model.safetensors", parts, config, tokenizer.to_bytes(), title="tiny")
    log: list[dict[str, object]] = [
        {"step": i, "stage": "flow", "flow_loss": 1 / (i + 1)} for i in range(5)
    ]
    log[-1]["advice"] = [{"signal": "copies", "text": "Pictures are <near> copies."}]
    lines = [*(json.dumps(row) for row in log), "[1]", "{torn"]
    (run / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return run


def measured(tmp_path: Path, *subjects: object, where: Path, **changed: object) -> Evaluation:
    settings = EvalSettings(
        subjects=tuple(map(str, subjects)), data=where, cache=tmp_path / "cache", **changed
    )
    return evaluate(settings)


def noisy(source: Path, folder: Path) -> Path:
    """The same captions, with noise in place of the pictures."""
    folder.mkdir()
    draw = np.random.RandomState(0)
    for text in source.glob("*.txt"):
        (folder / text.name).write_bytes(text.read_bytes())
        pixels = draw.randint(0, 256, (64, 64, 4)).astype(np.uint8)
        pixels[..., 3] = 255
        (folder / text.with_suffix(".png").name).write_bytes(encode(pixels))
    return folder


def test_a_model_has_every_score_and_a_report(
    tmp_path: Path, model: Path, captioned_folder: Path
) -> None:
    found = measured(tmp_path, model, where=captioned_folder, steps=2)
    assert [subject.kind for subject in found.subjects] == ["model", "real", "chance"]
    one, real, chance = found.subjects
    assert tuple(one.scores) == tuple(SCORES)
    assert one.pictures.shape == (24, 32, 32, 4)
    unknown = {name for name, score in one.scores.items() if math.isnan(score.value)}
    assert unknown == {"recognised_5"}  # three concepts are too few to guess five times
    assert real.scores["retrieval"].value > chance.scores["retrieval"].value
    assert real.scores["kid"].value < one.scores["kid"].value
    assert chance.scores["retrieval"].value == pytest.approx(1 / 12)  # different captions
    text = report(found)
    assert text.count("<img") >= 3 * 16
    assert "flow_loss" in text
    assert "Pictures are &lt;near&gt; copies." in text
    assert "<script" not in text
    assert "http" not in text.replace('http-equiv="Content', "")
    write_report(found, tmp_path / "deep" / "r.html")
    assert (tmp_path / "deep" / "r.html").read_text("utf-8") == text
    assert len(rows(found)) == len(SCORES)


def test_a_model_draws_with_the_steps_and_the_guidance_that_are_asked_for(
    tmp_path: Path, model: Path, captioned_folder: Path
) -> None:
    ways = [{"steps": 2}, {"steps": 2}, {"steps": 3}, {"steps": 2, "guidance": 1.0}]
    drawn = [
        measured(tmp_path, model, where=captioned_folder, scores=("diversity",), count=10, **way)
        .subjects[0]
        .pictures
        for way in ways
    ]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    assert (drawn[0] != drawn[3]).any()


def test_the_same_twice_and_from_the_cache(
    tmp_path: Path, model: Path, captioned_folder: Path
) -> None:
    told: list[str] = []
    settings = EvalSettings(
        (str(model),), captioned_folder, chosen_scores("kid,text,memory"), cache=tmp_path / "cache"
    )
    first = evaluate(settings).to_dict()
    again = evaluate(settings, lambda what, done, total: told.append(what)).to_dict()
    first.pop("seconds"), again.pop("seconds")
    assert first == again
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert not any("reference" in what or "training" in what for what in told)
    kept = sorted((tmp_path / "cache" / "features").iterdir())
    kept[0].write_bytes(kept[0].read_bytes()[:-1])  # a broken entry is made again
    assert evaluate(settings).to_dict()["subjects"] == first["subjects"]


def test_real_pictures_beat_noise_side_by_side(tmp_path: Path, captioned_folder: Path) -> None:
    noise = noisy(captioned_folder, tmp_path / "noise")
    found = measured(tmp_path, captioned_folder, noise, where=captioned_folder)
    real, bad = (subject.scores for subject in found.subjects[:2])
    assert found.subjects[1].kind == "pictures"
    for name in ("kid", "kid_lite0", "fd", "fd_lite0"):
        assert real[name].value < bad[name].value
    for name in ("precision", "coverage", "retrieval", "similarity", "colour"):
        assert real[name].value > bad[name].value, name
    assert real["nearest"].value == pytest.approx(0, abs=1e-5)  # they are the training pictures
    assert real["colour"].value == 1
    split = found.subjects[2].breakdown("split")
    assert list(split) == ["all"]
    assert split["all"]["retrieval"].count == 24
    assert found.subjects[2].breakdown("nothing") == {}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve things, each a pattern of its own, four pictures of each with a little noise."""
    folder = tmp_path_factory.mktemp("things")
    draw = np.random.RandomState(0)
    lines = []
    for thing in range(12):
        pattern = draw.randint(0, 256, (4, 4, 3)).repeat(16, 0).repeat(16, 1)
        for copy in range(4):
            pixels = (pattern + draw.randint(-20, 21, (64, 64, 3))).clip(0, 255).astype(np.uint8)
            name = f"{thing}-{copy}.png"
            (folder / name).write_bytes(encode(pixels))
            lines.append({"file_name": name, "text": f"a red thing{thing}", "style": "flat"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def test_things_are_recognised_by_what_their_captions_name(tmp_path: Path, things: Path) -> None:
    wrong = Path(shutil.copytree(things, tmp_path / "wrong"))
    lines = [json.loads(line) for line in (wrong / "metadata.jsonl").read_text().splitlines()]
    for line, other in zip(lines, [*lines[24:], *lines[:24]], strict=True):
        line["concept"] = other["text"].split()[-1]  # the data's own word goes before the caption
    (wrong / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = measured(tmp_path, things, wrong, where=things, scores=("recognised_5",))
    right, wrong_, real, chance = (subject.scores["recognised_5"] for subject in found.subjects)
    assert right.value == 1
    assert wrong_.value < 0.5
    assert real.value > 0.9
    assert real.count == 12  # three of four of each thing taught the classifier: the fourth is left
    assert chance.value == pytest.approx(5 / 12)
    told: list[str] = []
    settings = EvalSettings((str(things),), things, ("recognised_5",), cache=tmp_path / "cache")
    again = evaluate(settings, lambda what, done, total: told.append(what))
    assert again.subjects[0].scores["recognised_5"] == right
    assert "learning to recognise things" not in told  # the classifier is kept
    evaluate(
        dataclasses.replace(settings, cache=tmp_path / "other"),
        lambda what, done, total: told.append(what),
    )
    assert "learning to recognise things" in told


def test_calibration_puts_damaged_real_pictures_beside(
    tmp_path: Path, captioned_folder: Path
) -> None:
    seen: list[tuple[int, ...]] = []

    def reconstruct(pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels.shape)
        return 255 - pixels

    settings = EvalSettings(
        (str(captioned_folder),), captioned_folder, calibrate=True, cache=tmp_path / "cache"
    )
    found = evaluate(settings, reconstruct=reconstruct)
    assert found.count == 12  # half of the pictures; the others are damaged
    assert seen == [(12, 64, 64, 4)]
    names = [subject.name for subject in found.calibration]
    assert names == [*DAMAGES, "reconstructed", ANOTHER]
    assert {subject.kind for subject in found.calibration} == {"calibration"}
    for subject in found.calibration:
        assert tuple(subject.scores) == tuple(SCORES)
        assert len(subject.pictures) == 12
    by = {subject.name: subject.scores for subject in found.calibration}
    one, two = by["blurred 1 px"], by["blurred 2 px"]
    for name in ("kid", "kid_lite0", "fd", "fd_lite0"):
        assert found.real().scores[name].value < one[name].value < two[name].value
        assert by["tiles shuffled"][name].value > found.real().scores[name].value
        # pictures of other captions are real ones: no distance sees what is wrong with them
        assert by[ANOTHER][name].value < one[name].value
    assert by[ANOTHER]["retrieval"].value < one["retrieval"].value
    assert "reconstructed" in found.tells_apart("kid")  # the hook gives negatives
    assert ANOTHER not in found.tells_apart("kid")
    assert ANOTHER in found.tells_apart("colour")
    plain = found.to_dict()
    assert [row["name"] for row in plain["calibration"]] == names
    assert set(plain["tells_apart"]) == set(SCORES)
    assert json.loads(json.dumps(plain, allow_nan=False))["tells_apart"]["kid"]
    columns, lines = calibration_columns(found), calibration_rows(found)
    assert columns == ["score", str(captioned_folder), "real", *names, "tells from real"]
    assert {len(line) for line in lines} == {len(columns)}
    assert [line[0] for line in lines][:3] == ["recognised@5", "KID, own", "KID, ImageNet"]
    text = report(found)
    assert "Calibration" in text
    assert text.count("<h3>tiles shuffled</h3>") == 1


def test_without_calibration_nothing_is_damaged(tmp_path: Path, captioned_folder: Path) -> None:
    found = measured(tmp_path, captioned_folder, where=captioned_folder, scores=("colour",))
    assert found.count == 24
    assert found.calibration == []
    assert calibration_rows(found) == []
    assert "calibration" not in found.to_dict()
    assert "Calibration" not in report(found)


def test_features_of_imagenet_by_name(tmp_path: Path, captioned_folder: Path) -> None:
    """As the features that are asked for, they give the figures that they always give beside others."""
    noise = noisy(captioned_folder, tmp_path / "noise")
    both = [
        measured(
            tmp_path, noise, where=captioned_folder, features=name, scores=("kid", "kid_lite0")
        )
        for name in ("lite0", "own")
    ]
    lite0, own = (found.subjects[0].scores for found in both)
    assert lite0["kid"] == lite0["kid_lite0"] == own["kid_lite0"] != own["kid"]
    assert rows(both[0])[0][0] == "KID, lite0"
    assert "ImageNet" in both[0].features_note


def test_only_what_is_asked_for(tmp_path: Path, model: Path, captioned_folder: Path) -> None:
    found = measured(
        tmp_path,
        model,
        where=captioned_folder,
        scores=chosen_scores("fd_lite0,retrieval"),
        count=12,
    )
    assert [list(subject.scores) for subject in found.subjects] == [
        ["fd_lite0", "retrieval"], ["fd_lite0", "retrieval"], ["retrieval"],
    ]  # fmt: skip
    assert found.count == 12
    assert len(found.subjects[0].pictures) == 12
    assert report(found)


def test_scores_are_chosen_by_metric_or_by_name() -> None:
    assert chosen_scores(None) == tuple(SCORES)
    assert chosen_scores("prdc, colour") == ("precision", "recall", "density", "coverage", "colour")
    assert set(METRICS) == {
        "recognised", "kid", "fd", "prdc", "text", "diversity", "memory", "colour",
    }  # fmt: skip
    with pytest.raises(UsageError, match="no such metric"):
        chosen_scores("kid,inception")


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("kid>0.05", 0.06, True), ("kid>0.05", 0.05, False), ("kid >= 0.05", 0.05, True),
        ("retrieval<.3", 0.2, True), ("retrieval<0.3", 0.3, False), ("retrieval <= 3e-1", 0.3, True),
        ("kid<1", 2.0, False), ("kid>1", math.nan, True),
    ],
)  # fmt: skip
def test_conditions(text: str, value: float, holds: bool) -> None:
    assert parse_condition(text).holds(value) is holds


@pytest.mark.parametrize("text", ["", "kid", "kid=1", "what>1", "kid>", "kid>one", "kid>1>2"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a condition"):
        parse_condition(text)


def test_a_condition_that_holds_is_an_error_that_names_it(
    tmp_path: Path, model: Path, captioned_folder: Path
) -> None:
    found = measured(tmp_path, model, where=captioned_folder, scores=("retrieval",))
    figures = {subject.name: subject.scores for subject in found.measured()}
    hold(figures, [Condition("retrieval", ">", 1.0)])
    with pytest.raises(ThresholdError, match=r"retrieval is .*< 0\.9") as caught:
        hold(figures, [Condition("retrieval", "<", 0.9)])
    assert caught.value.exit_code == 5


def test_what_cannot_be_measured_is_refused(tmp_path: Path, captioned_folder: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    (few / "a.png").write_bytes((captioned_folder / "red-ball-0.png").read_bytes())
    (few / "a.txt").write_text("a red ball", encoding="utf-8")
    with pytest.raises(DataError, match="1 picture is too few"):
        measured(tmp_path, captioned_folder, where=few)
    with pytest.raises(DataError, match="1 picture is too few"):
        measured(tmp_path, few, where=captioned_folder)
    with pytest.raises(WeightsError):
        measured(tmp_path, tmp_path / "absent.safetensors", where=captioned_folder)
    with pytest.raises(UsageError, match="no such encoder"):
        measured(tmp_path, captioned_folder, where=captioned_folder, features="dino")
    with pytest.raises(UsageError, match="not usable here"):
        measured(tmp_path, captioned_folder, where=captioned_folder, device="nonsense")
    with pytest.raises(UsageError, match="-n 3"):
        EvalSettings(("x",), few, count=3)


def test_the_command_prints_json_writes_a_page_and_exits_5(
    tmp_path: Path, captioned_folder: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    page = tmp_path / "page.html"
    common = ("eval", captioned_folder, captioned_folder, "--metrics", "colour,kid")
    done = cli(*common, "--json", "--report", page, "--fail-if", "colour>0.5", "--fail-if", "kid>9")
    assert done.returncode == 5
    assert "colour is 1, > 0.5" in done.stderr
    assert "kid" not in done.stderr.splitlines()[-1]
    row = json.loads(done.stdout)
    assert row["subjects"][0]["scores"]["colour"]["value"] == 1
    assert row["features"]["name"] == "own"
    assert page.read_text("utf-8").startswith("<!doctype html>")
    damaged = cli(
        "eval", captioned_folder, captioned_folder, "--metrics", "colour", "--calibrate", "--json"
    )
    assert json.loads(damaged.stdout)["calibration"][0]["name"] == "blurred 1 px"
    shown = cli("eval", captioned_folder, captioned_folder, "--metrics", "colour", "--calibrate")
    assert "tells from real" in shown.stdout
    assert "warped 4 px" in shown.stdout
    again = cli(*common, "--report", page)
    assert again.returncode == 1
    assert "already there" in again.stderr
    assert cli("eval", captioned_folder).returncode == 2


def test_captions_reach_the_shipped_encoder_far_above_chance(captioned_folder: Path) -> None:
    """Drawings that it never saw: a ball is nearer to 'a red ball' than to any other colour's."""
    encoder = load_encoder()
    images = data.load(captioned_folder, 64)
    assert encoder.to_shared is not None
    assert encoder.text_features is not None
    features = encoder.features(images.pixels)
    assert features.shape == (24, 192)
    colours = ["red", "green", "blue", "yellow"]
    texts = encoder.text_features([f"a {colour} ball" for colour in colours])
    shared = encoder.to_shared(features).detach()
    torch.testing.assert_close(shared.norm(dim=1), torch.ones(24))
    right = [
        colours[int((texts.detach() @ shared[i]).argmax())] in captions[0]
        for i, captions in enumerate(images.captions)
    ]
    assert sum(right) >= 20
