"""Reliability 23 and honest figures: what is measured was not trained on, or the report says that it may have been."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from t2i_cli import checkpoint, data, png
from t2i_cli.data.splits import read_records, split_record
from t2i_cli.errors import DataError, visible
from t2i_cli.evaluate import EvalSettings, evaluate
from t2i_cli.evaluation.report import report
from t2i_cli.evaluation.results import Evaluation
from t2i_cli.evaluation.scores import chosen_scores
from tests.conftest import Cli
from tests.toy_weights import save_toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures, each another one, no split named."""
    place = tmp_path_factory.mktemp("sixty")
    draw = np.random.RandomState(0)
    for k in range(60):
        pixels = np.full((64, 64, 4), 255, np.uint8)
        pixels[8:56, 8:56, :3] = draw.randint(0, 256, (1, 1, 3))
        (place / f"{k:02}.png").write_bytes(png.encode(pixels))
        (place / f"{k:02}.txt").write_text(f"a {('red', 'blue', 'green')[k % 3]} ball")
    return place


def with_metadata(source: Path, target: Path, **metadata: str) -> Path:
    """The same weights, with other metadata."""
    told = checkpoint.load_model(source)
    parts = {name: part.state_dict() for name, part in told.networks.named_children()}
    checkpoint.save_model(
        target, parts, told.config, told.tokenizer, title=target.stem,
        extra={name.replace("_", ".", 1): text for name, text in metadata.items()},
    )  # fmt: skip
    return target


def measured(where: Path, cache: Path, *subjects: Path, scores: str = "kid") -> Evaluation:
    names = tuple(map(str, subjects))
    return evaluate(EvalSettings(names, where, chosen_scores(scores), cache=cache))


def test_a_model_is_measured_on_what_its_own_run_held_out(folder: Path, tmp_path: Path) -> None:
    images = data.load(folder, 32, cache=tmp_path / "cache")
    toy = save_toy(tmp_path / "toy.safetensors")
    train, held_out = images.split(0.3, 5)
    assert np.isin(images.split(0.02, 0)[1], train).any()  # what was measured on, once
    record = json.dumps([split_record(images, 0.3, 5)])
    config = json.dumps({"val": 0.3, "seed": 5})
    for name, told in {
        "new": {"t2i_splits": record},
        "old": {"t2i_data": images.digest, "t2i_train_config": config},
    }.items():
        model = with_metadata(toy, tmp_path / f"{name}.safetensors", **told)
        found = measured(folder, tmp_path / "cache", model)
        assert found.warnings == ()
        assert found.reference == f"18 held-out pictures of {folder}"
        assert sorted(found.train) == sorted(train)
        assert found.count == len(held_out) == 18


def test_two_models_are_measured_on_what_neither_saw(folder: Path, tmp_path: Path) -> None:
    images = data.load(folder, 32, cache=tmp_path / "cache")
    toy = save_toy(tmp_path / "toy.safetensors")
    models = [
        with_metadata(
            toy,
            tmp_path / f"{seed}.safetensors",
            t2i_splits=json.dumps([split_record(images, 0.5, seed)]),
        )
        for seed in (1, 2)
    ]
    found = measured(folder, tmp_path / "cache", *models)
    both = set(images.split(0.5, 1)[1]) & set(images.split(0.5, 2)[1])
    assert len(both) >= 10
    assert set(range(60)) - set(found.train) == both
    assert found.count == len(both)


def test_where_the_split_is_unknown_the_report_says_so(folder: Path, tmp_path: Path, cli: Cli) -> None:  # fmt: skip
    toy = save_toy(tmp_path / "toy.safetensors")
    found = measured(folder, tmp_path / "cache", toy)
    assert any("may have been seen in training" in text for text in found.warnings)
    assert f"{visible(str(toy), 80)} was trained on" in found.warnings[0]
    assert found.to_dict()["warnings"] == list(found.warnings)
    assert "may have been seen in training" in report(found)
    done = cli("eval", toy, folder, "--metrics", "kid", "-n", 10)
    assert done.returncode == 0, done.stderr
    assert "these pictures may have been seen in training" in done.stderr
    assert "only 1 are held out" in done.stderr


def test_a_run_records_its_split_and_those_of_what_it_began_with(
    folder: Path, tmp_path: Path, cli: Cli
) -> None:
    line = ("--steps", 4, "--resolution", 32, "--batch-size", 4, "--val", 0.2)
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli("train", folder, "-o", first, *line, "--seed", 5).returncode == 0
    done = cli("train", folder, "-o", second, *line, "--seed", 6, "--init", first)
    assert done.returncode == 0, done.stderr
    images = data.load(folder, 32)
    told = checkpoint.read_info(second / "model.safetensors").metadata
    assert read_records(told) == [split_record(images, 0.2, seed) for seed in (6, 5)]
    found = measured(folder, tmp_path / "cache", first)
    assert found.warnings == () and found.count == 12
    # advice that this run cannot follow is not given: it did start with --init
    assert "start from a trained model with --init" not in done.stderr


# -- folders of drawn pictures


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures as `t2i sample --json` leaves them, and its rows."""
    from t2i_cli.prompts import Request
    from t2i_cli.sample import Options, draw, load

    place = tmp_path_factory.mktemp("drawn")
    model = load(save_toy(place / "toy.safetensors"), "cpu")
    wishes = [Request(f"a {colour} ball") for colour in ("red", "blue", "green")]
    made = draw(model, wishes, Options(out=f"{place}/out/{{i}}.png", n=4))
    rows = [json.dumps(event.row()) for event in made]  # type: ignore[union-attr]
    (place / "rows.jsonl").write_text("\n".join(rows))
    assert len(rows) == 12
    return place


def test_prompts_come_from_the_pictures_themselves(drawn: Path, folder: Path, tmp_path: Path) -> None:  # fmt: skip
    found = measured(folder, tmp_path / "cache", drawn / "out", scores="kid,text,diversity")
    subject = found.subjects[0]
    assert subject.kind == "pictures"
    assert sorted(subject.captions) == sorted([f"a {c} ball" for c in ("red", "blue", "green")] * 4)
    assert np.isfinite(subject.scores["diversity"].value)  # pictures of one prompt are known


def test_rows_that_sample_wrote_are_read_back(
    drawn: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(drawn / "out", bare / "out")
    for path in (bare / "out").iterdir():  # without their metadata, so the rows alone know
        path.write_bytes(png.encode(np.full((32, 32, 4), 9, np.uint8)))
    rows = [json.loads(line) for line in (drawn / "rows.jsonl").read_text().splitlines()]
    expected = sorted(row["prompt"] for row in rows)
    for k, (where, base) in enumerate(
        (("rows.jsonl", "out/"), ("out/rows.jsonl", ""), ("out/metadata.jsonl", "out/"))
    ):
        text = "\n".join(json.dumps(row | {"path": base + Path(row["path"]).name}) for row in rows)
        (bare / where).write_text(text)
        monkeypatch.chdir(bare)  # where `sample` was called
        subject = Path(where) if k == 0 else Path("out")
        found = measured(folder, tmp_path / f"cache{k}", subject, scores="text")
        assert sorted(found.subjects[0].captions) == expected
        (bare / where).unlink()


def test_kid_and_fid_need_no_captions(folder: Path, tmp_path: Path, cli: Cli) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in folder.glob("*.png"):
        shutil.copy(path, plain)
    for subject, where in ((plain, folder), (plain, plain)):
        found = measured(where, tmp_path / "cache", subject, scores="kid,fd,prdc")
        assert np.isfinite(found.subjects[0].scores["fd"].value)
    done = cli("eval", plain, folder, "--metrics", "kid,fd", "--json")
    assert done.returncode == 0, done.stderr
    with pytest.raises(DataError, match="no picture with a prompt") as told:
        measured(folder, tmp_path / "cache", plain, scores="kid,text")
    assert "--metrics kid,fd,prdc" in told.value.hint


def test_an_archive_of_pictures_is_measured(folder: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.zip"
    with zipfile.ZipFile(theirs, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    subject = measured(folder, tmp_path / "cache", theirs, scores="kid,text").subjects[0]
    assert subject.kind == "pictures"
    assert len(subject.captions) == 60


def test_what_has_no_prompt_is_left_out_and_said(drawn: Path, folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(drawn / "out", mixed)
    shutil.copy(folder / "00.png", mixed / "foreign.png")
    found = measured(folder, tmp_path / "cache", mixed, scores="text")
    assert len(found.subjects[0].captions) == 12
    assert any("foreign.png" in text for text in found.warnings)
