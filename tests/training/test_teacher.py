"""A teacher's lessons: which texts it reads, what is kept, what the student makes of it, what is refused."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.synonyms import REWRITES, SYNONYMS
from t2i_cli.errors import UsageError, WeightsError
from t2i_cli.models import encode
from t2i_cli.training import losses
from t2i_cli.training.teacher import Lessons, Teacher, load_teacher, make_lessons
from tests.toys import Toys, toy_material, toy_stage

MEANING = {
    "crimson": "red",
    "scarlet": "red",
    "azure": "blue",
    "orb": "ball",
    "sphere": "ball",
    "box": "square",
    "beam": "bar",
}


class Reader(Teacher):
    """A stand-in for a language model: it knows which words mean the same, and nothing else."""

    calls = 0

    def features(self, texts: Sequence[str]) -> torch.Tensor:
        type(self).calls += len(texts)
        found = torch.zeros(len(texts), 64)
        for row, text in enumerate(texts):
            for word in text.replace(",", "").split():
                meant = MEANING.get(word, word)
                found[row] += torch.randn(
                    64,
                    generator=torch.Generator().manual_seed(sum(map(ord, meant)) * 7 + len(meant)),
                )
        return F.normalize(found, dim=1)


def reader() -> Reader:
    Reader.calls = 0
    return Reader("reader", "d1", tuple(sorted(MEANING)), None, None)


def lessons_of(
    teacher: Teacher, cache: Path, captions: list[str] | None = None, **options: Any
) -> Lessons:
    captions = captions or [text for row in Toys().captions for text in row]
    steps = make_lessons(teacher, captions, cache, **options)
    last = (0, 1)
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            assert last[0] == last[1] or last == (0, 1)
            return end.value
        assert 0 < done[0] <= done[1]
        last = done


def test_the_relation_loss_is_its_formula_in_float64() -> None:
    random = torch.Generator().manual_seed(0)
    student = F.normalize(torch.randn(6, 5, generator=random), dim=1)
    teacher = F.normalize(torch.randn(6, 9, generator=random), dim=1)

    def rows(features: np.ndarray) -> list[np.ndarray]:
        cosines = features @ features.T / 0.1
        others = [np.delete(row, at) for at, row in enumerate(cosines)]
        return [np.exp(row) / np.exp(row).sum() for row in others]

    p, q = rows(teacher.double().numpy()), rows(student.double().numpy())
    expected = np.mean([np.sum(a * np.log(a / b)) for a, b in zip(p, q, strict=True)])
    assert float(losses.relation_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=random)).Q
    assert float(losses.relation_loss(teacher @ turn, teacher)) == pytest.approx(0, abs=1e-5)


def test_lessons_hold_captions_other_colours_other_words_and_single_words(tmp_path: Path) -> None:
    lessons = lessons_of(reader(), tmp_path)
    captions = lessons.texts[: lessons.captions]
    assert {"a red ball", "a pink ball", "ball, teal"} <= set(captions)
    assert len(captions) == len(set(captions)) == 4 * 9 * 2
    assert "a crimson" in {lessons.texts[row] for row in lessons.words}
    rewrites = {
        text: {lessons.texts[row] for row in rows} for text, rows in lessons.rewrites.items()
    }
    assert rewrites["a red ball"] <= {
        "a crimson ball",
        "a scarlet ball",
        "a red orb",
        "a red sphere",
    }
    assert rewrites["a red ball"]
    assert "a green cross" not in rewrites  # nothing is near to either word
    uncoloured = lessons_of(reader(), tmp_path, recolour=False)
    assert "a pink ball" not in uncoloured.texts


def test_the_teacher_reads_once(tmp_path: Path) -> None:
    teacher = reader()
    first = lessons_of(teacher, tmp_path)
    read = Reader.calls
    assert read > 0
    again = lessons_of(teacher, tmp_path)
    assert Reader.calls == read
    assert again.texts == first.texts
    assert torch.equal(again.features, first.features)
    for file in (tmp_path / "teacher").iterdir():
        file.write_bytes(file.read_bytes()[:-20])  # a broken cache is read anew
    assert torch.equal(lessons_of(teacher, tmp_path).features, first.features)
    assert Reader.calls == 2 * read
    other = Reader("reader", "d2", teacher.words, None, None)
    lessons_of(other, tmp_path)
    assert Reader.calls == 3 * read  # other weights, other features


def test_a_lesson_is_fixed_by_its_randomness_and_matches_its_texts(tmp_path: Path) -> None:
    lessons = lessons_of(reader(), tmp_path)
    captions = [
        "a red ball",
        "never read",
        "ball, teal",
        "a blue bar",
        "a red cross",
        "a blue ball",
    ]
    known, extra, features = lessons.lesson(captions, np.random.default_rng(5))
    same = lessons.lesson(captions, np.random.default_rng(5))
    assert extra == same[1]
    assert torch.equal(features, same[2])
    assert known.tolist() == [0, 2, 3, 4, 5]
    assert features.shape == (5 + len(extra), 64)
    rows = [lessons.rows[captions[place]] for place in known]
    assert torch.equal(features[:5], lessons.features[rows].float())
    assert torch.allclose(features.norm(dim=1), torch.ones(len(features)), atol=2e-3)
    assert lessons.lesson(captions, np.random.default_rng(6))[1] != extra


def test_a_teacher_lets_the_student_read_words_that_no_caption_holds(tmp_path: Path) -> None:
    """After the same steps "a crimson orb" lies at "a red ball" where it was taught, and not where it was not."""

    def taught(lessons: Lessons | None) -> tuple[float, list[float]]:
        material = toy_material(
            tmp_path, contrastive_lr=3e-3, teacher_weight=1.0, contrastive_batch_size=16
        )
        batches = material.batches
        batches.lessons = lessons
        stage = toy_stage("contrastive", material)
        rows = []
        for step in range(60):
            result = stage.step(step, step / 60)
            assert not result.skipped
            rows.append(float(result.figures.get("teacher_loss", 0.0)))
        plain = [
            f"a {colour} {shape}"
            for colour in ("red", "blue")
            for shape in ("ball", "square", "bar")
        ]
        words = {meant: word for word, meant in MEANING.items()}
        other = [" ".join(words.get(word, word) for word in text.split()) for text in plain]
        encoder = material.networks.text_encoder
        with torch.no_grad():
            a, b = (
                encode(encoder, *batches.tokens(texts)).text_features for texts in (plain, other)
            )
        return float(((b @ a.T).argmax(1) == torch.arange(len(a))).float().mean()), rows

    with_teacher, rows = taught(lessons_of(reader(), tmp_path))
    without, _ = taught(None)
    assert sum(rows[-10:]) < 0.5 * sum(rows[:10])
    assert with_teacher > without + 0.3


# -- transformers' own models -----------------------------------------------------------------


def test_without_transformers_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="needs transformers") as refused:
        load_teacher(str(tmp_path), torch.device("cpu"))
    assert "t2i-cli[hf]" in refused.value.hint
    assert refused.value.exit_code == 2


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such text encoder"):
        load_teacher(str(tmp_path / "nothing"), torch.device("cpu"))
    with pytest.raises(UsageError, match="no such text encoder"):
        load_teacher("lsmt", torch.device("cpu"))


WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "crimson",
    "blue",
    "cat",
    "kitty",
    "##s",
    "ball",
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of one layer."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=70, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_a_folder_of_a_language_model_teaches(bert: Path, tmp_path: Path) -> None:
    teacher = load_teacher(str(bert), torch.device("cpu"))
    assert teacher.words == ("ball", "blue", "cat", "crimson", "kitty", "red")
    both = teacher.features(["a red cat", "a cat and a red ball"])
    assert torch.allclose(both.norm(dim=1), torch.ones(2))
    assert torch.allclose(
        both[0], teacher.features(["a red cat"])[0], atol=1e-5
    )  # padding says nothing
    inner = teacher.network(
        **teacher.tokenizer(["a red cat"], return_tensors="pt")
    ).last_hidden_state[0]
    assert torch.allclose(both[0], F.normalize(inner.mean(0), dim=0), atol=1e-5)
    lessons = lessons_of(teacher, tmp_path, ["a red cat", "a blue ball"])
    assert "a kitty" in lessons.texts
    assert load_teacher(str(bert), torch.device("cpu")).digest == teacher.digest


def test_a_folder_that_holds_no_such_model_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be used as a text model") as refused:
        load_teacher(str(tmp_path), torch.device("cpu"))
    assert refused.value.exit_code == 3
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in bert.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")  # never opened
    with pytest.raises(WeightsError, match="safetensors"):
        load_teacher(str(pickled), torch.device("cpu"))
    (pickled / "pytorch_model.bin").unlink()
    (pickled / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(WeightsError):
        load_teacher(str(pickled), torch.device("cpu"))


def test_a_folder_that_brings_its_own_code_is_refused(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((bert / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(WeightsError):
        load_teacher(str(tmp_path), torch.device("cpu"))


@pytest.mark.parametrize("family", ["t5", "gpt2", "clip"])
def test_other_families_teach_too(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = importlib.import_module("tokenizers")
    marked = {"t5": "▁{}", "gpt2": "Ġ{}", "clip": "{}</w>"}[family]
    vocabulary = {
        marked.format(word): row for row, word in enumerate(["a", "red", "cat", "kitty"])
    } | {"<pad>": 4, "</s>": 5}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="</s>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.normalizer = tokenizers.normalizers.Replace(
        tokenizers.Regex(r"(\w+)"), marked.format(r"\1")
    )
    tokens = {} if family == "gpt2" else {"pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", **tokens
    ).save_pretrained(tmp_path)
    torch.manual_seed(0)
    small = {
        "vocab_size": 6,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
        "hidden_size": 8,
        "num_attention_heads": 2,
    }
    if family == "t5":
        config = transformers.T5Config(
            vocab_size=6, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2
        )
        model = transformers.T5ForConditionalGeneration(config)
    elif family == "gpt2":
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=6, n_embd=8, n_layer=1, n_head=2, n_positions=70)
        )
    else:
        model = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**small, max_position_embeddings=70, eos_token_id=5)
        )
    model.save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path), torch.device("cpu"))
    assert teacher.words == ("cat", "kitty", "red")
    found = teacher.features(["a red cat", "a kitty"])
    assert found.shape == (2, 8)
    assert torch.allclose(found[1], teacher.features(["a kitty"])[0], atol=1e-5)


def test_the_benchmarks_rewordings_change_the_words_and_not_the_meaning() -> None:
    assert len(SYNONYMS) >= 60
    assert not set(SYNONYMS) & set(SYNONYMS.values())
    assert REWRITES["synonyms"]("an orange cat") == "a tangerine kitty"
    assert REWRITES["synonyms"]("a tulip") is None
    assert REWRITES["plural"]("a blue fox, flat icon") == "blue foxes, flat icon"
    assert REWRITES["plural"]("a man with a hat") is None
    assert sorted(REWRITES["typo"]("a red banana") or "") == sorted("a red banana")
    assert REWRITES["word order"]("a red cat") == "cat, a red one"
    for rewrite in REWRITES.values():
        assert rewrite("a red banana") != "a red banana"
