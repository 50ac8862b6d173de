"""Evaluation of tiny models and folders: what is measured, what is kept, what is refused."""

from __future__ import annotations

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
from t2i_cli.checkpoint import load_state, save_model, save_state
from t2i_cli.config import ModelConfig, TextEncoderConfig
from t2i_cli.encoders import load_encoder
from t2i_cli.errors import DataError, ThresholdError, UsageError, WeightsError
from t2i_cli.evaluate import (
    METRICS,
    SCORES,
    Condition,
    EvalSettings,
    Evaluation,
    chosen_scores,
    evaluate,
    hold,
    parse_condition,
    report,
    rows,
    write_report,
)
from t2i_cli.images import encode
from t2i_cli.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained model of 32 px and a short log."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("run")
    tokenizer = train_tokenizer(["a red ball", "a blue bar", "ein grünes Haus"] * 4, 320)
    config = ModelConfig(
        size="custom", resolution=32, fold=4, channels=(32, 32), blocks=1,
        image_encoder_channels=(16, 16),
        text=TextEncoderConfig(vocab_size=tokenizer.vocab_size, context_length=16, dim=32, depth=1),
    )  # fmt: skip
    networks = models.build(config)
    parts = {name: part.state_dict() for name, part in networks.named_children()}
    save_model(run / "model.safetensors", parts, config, tokenizer.to_bytes(), title="tiny")
    log: list[dict[str, object]] = [
        {"step": i, "stage": "flow", "flow_loss": 1 / (i + 1)} for i in range(5)
    ]
    generator = networks.generator.state_dict()
    anchor = {name: torch.zeros_like(value) for name, value in generator.items()}
    save_state(run, 4, {"networks": generator, "anchor": anchor}, {})
    log[-1]["advice"] = [{"signal": "copies", "text": "Pictures are <near> copies."}]
    lines = [*(json.dumps(row) for row in log), "[1]", "{torn"]
    (run / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return run


def test_many_steps_of_a_distilled_run_are_refused(
    tmp_path: Path, model: Path, captioned_folder: Path
) -> None:
    run = Path(shutil.copytree(model, tmp_path / "run"))
    state = load_state(run)
    assert state is not None
    meta = {"facts": {"distill": 0.1}, "position": {"stage": "adversarial"}}
    save_state(run, 5, state.files, meta)
    with pytest.raises(UsageError, match="flow stage no more"):
        measured(tmp_path, run, where=captioned_folder, steps=2)
    meta["position"]["pairs"] = [
        7
    ]  # of a game that is held to the flow's pictures: the anchor is the flow
    save_state(run, 6, state.files, meta)
    told = measured(tmp_path, run, where=captioned_folder, steps=2)
    assert any("2 steps" in subject.name for subject in told.subjects)


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
    assert [subject.kind for subject in found.subjects] == ["model", "model", "real", "chance"]
    for subject in found.subjects[:2]:
        assert tuple(subject.scores) == tuple(SCORES)
        assert subject.pictures.shape == (24, 32, 32, 4)
        assert all(math.isfinite(score.value) for score in subject.scores.values())
    one, many, real, chance = found.subjects
    assert (one.pictures != many.pictures).any()
    # the flow's generator is the run's state: all zeros, so its pictures are nearly the same
    assert many.scores["diversity"].value < 0.03
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
    for name in ("kid", "fid"):
        assert real[name].value < bad[name].value
    for name in ("precision", "coverage", "retrieval", "similarity", "colour"):
        assert real[name].value > bad[name].value, name
    assert real["nearest"].value == pytest.approx(0, abs=1e-5)  # they are the training pictures
    assert real["colour"].value == 1
    split = found.subjects[2].breakdown("split")
    assert list(split) == ["all"]
    assert split["all"]["retrieval"].count == 24
    assert found.subjects[2].breakdown("nothing") == {}


def test_only_what_is_asked_for(tmp_path: Path, model: Path, captioned_folder: Path) -> None:
    found = measured(
        tmp_path, model, where=captioned_folder, scores=chosen_scores("kid,retrieval"), count=12
    )
    assert [list(subject.scores) for subject in found.subjects] == [
        ["kid", "retrieval"], ["kid", "retrieval"], ["retrieval"],
    ]  # fmt: skip
    assert found.count == 12
    assert len(found.subjects[0].pictures) == 12
    assert report(found)


def test_scores_are_chosen_by_metric_or_by_name() -> None:
    assert chosen_scores(None) == tuple(SCORES)
    assert chosen_scores("prdc, colour") == ("precision", "recall", "density", "coverage", "colour")
    assert set(METRICS) == {"kid", "fid", "prdc", "text", "diversity", "memory", "colour"}
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
    hold(found, [Condition("retrieval", ">", 1.0)])
    with pytest.raises(ThresholdError, match=r"retrieval is .*< 0\.9") as caught:
        hold(found, [Condition("retrieval", "<", 0.9)])
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
