"""A pretrained language model that teaches the built-in text encoder which texts mean the same.

Enters: a folder or `hf:ID` of a transformers model, and the captions. Leaves: `Lessons`, texts with
the teacher's features: the captions, their recoloured forms, captions with one word replaced by one
that the teacher holds for near, and single words of the teacher's own vocabulary; `read_words` gives the features of
these words alone, from which `vocabulary` tells what unknown words are read as. The contrastive
stage asks that the student's features of a batch of them be as near to one another as the teacher's
are; the teacher itself is never part of a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2i_cli import libraries
from t2i_cli.checkpoint.weights import load_tensors, save_tensors
from t2i_cli.errors import DeviceError, T2IError, UsageError, WeightsError
from t2i_cli.training.augmentation import COLOURS, colour_of, slip, with_colour

__all__ = ["BUILTIN", "Lessons", "Teacher", "load_teacher", "make_lessons", "read_words"]

BUILTIN = ("builtin", "lstm")  # text encoders that need no teacher
LONGEST = 64  # of the teacher's tokens
ROWS = 256  # texts that the teacher reads at a time
NEIGHBOURS = 5  # words that one of the captions' words may be replaced by
NEAR = 0.55  # cosine of two single words from which on one may stand for the other
SLIPS = 0.2  # share of the extra texts that the student reads with a slip of the pen
_WORD = re.compile(r"[a-z]{3,}")
_PLAN = "1"  # changes where the texts or the pooling do, so that old caches are not taken

Progress = Generator[tuple[int, int], None, "Lessons"]


@dataclass(frozen=True)
class Teacher:
    """A frozen language model: texts in, one feature vector each out."""

    name: str
    digest: str  # of its weights and vocabulary
    words: tuple[str, ...]  # whole words of its vocabulary, lower case
    network: Any  # transformers' encoder
    tokenizer: Any  # and its tokenizer

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Tensor:
        """Texts -> fp32 (n, e) on the CPU, unit norm: the mean over the last layer's real tokens."""
        device = self.network.device
        read = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        tokens, mask = read["input_ids"].to(device), read["attention_mask"].to(device)
        mask[:, 0] = 1  # the empty text, which some tokenizers give no token
        hidden = self.network(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        weight = mask[:, :, None].float()
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1).cpu()


@dataclass(frozen=True)
class Lessons:
    """What a teacher says of texts.

    The first ``captions`` texts may be met as captions; the others are extra texts.
    """

    texts: list[str]
    features: Tensor  # fp16 (n, e), centred, unit norm
    captions: int
    rewrites: dict[str, list[int]]  # caption -> rows of it with a word replaced
    words: np.ndarray  # int64, rows of single words
    rows: dict[str, int]  # text -> row
    digest: str

    @classmethod
    def of(
        cls, texts: list[str], features: Tensor, captions: int, sources: list[int], digest: str
    ) -> Lessons:
        """Lessons of n texts.

        Args:
            texts: the captions first.
            features: (n, e), the teacher's.
            captions: how many.
            sources: for each other text the row of the caption that it rewrites; -1 for a word.
            digest: of all that.
        """
        rewrites: dict[str, list[int]] = {}
        for row, source in enumerate(sources, captions):
            if source >= 0:
                rewrites.setdefault(texts[source], []).append(row)
        words = np.array(
            [row for row, source in enumerate(sources, captions) if source < 0], np.int64
        )
        rows = {text: row for row, text in reversed(list(enumerate(texts)))}
        # the features of many models share one direction, which tells nothing
        centred = F.normalize(features.float() - features.float().mean(0), dim=1)
        return cls(texts, centred.half(), captions, rewrites, words, rows, digest)

    def lesson(
        self, captions: Sequence[str], random: np.random.Generator
    ) -> tuple[Tensor, list[str], Tensor]:
        """What goes with a batch of captions.

        Args:
            captions: b of them.
            random: of the step.

        Returns:
            int64 (k,): the places of captions that the teacher has read; m extra texts for the
            student, some with a slip; the teacher's features, fp32 (k + m, e), of those captions
            and of the extra texts as they were meant.
        """
        known = [place for place, text in enumerate(captions) if text in self.rows]
        chosen: list[int] = []
        for text in captions[: len(captions) // 2]:
            found = self.rewrites.get(text, ())
            if len(found):
                chosen.append(found[int(random.integers(len(found)))])
            elif len(self.words):
                chosen.append(int(self.words[random.integers(len(self.words))]))
        extra = [self.texts[row] for row in chosen]
        extra = [slip(text, random) if random.random() < SLIPS else text for text in extra]
        rows = [self.rows[captions[place]] for place in known] + chosen
        return torch.tensor(known, dtype=torch.int64), extra, self.features[rows].float()


def load_teacher(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Teacher:
    """A teacher by its name. Weights are read from safetensors alone, and no code of the folder is run.

    Args:
        name: a folder of a transformers text model, or `hf:ID`, which may be downloaded.
        device: where it computes.
        dtype: of its weights.

    Raises:
        UsageError: transformers is not installed, or there is no such folder.
        WeightsError: the folder holds no text model that can be read.
        DeviceError: it does not fit on the device.
    """
    local = not name.startswith("hf:")
    if local and not Path(name).is_dir():
        hint = "use builtin, lstm, a folder of a language model, or hf:ID"
        raise UsageError(f"--text-encoder {name}: no such text encoder", hint)
    transformers = libraries.transformers(f"--text-encoder {name}")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    source = name.removeprefix("hf:")
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **where)
        config = transformers.AutoConfig.from_pretrained(source, **where)
        encoders = (
            transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
        )  # of T5 and CLIP, the text encoder alone
        kind = (
            transformers.AutoModelForTextEncoding
            if type(config) in encoders
            else transformers.AutoModel
        )
        network, told = kind.from_pretrained(
            source, use_safetensors=True, dtype=dtype, output_loading_info=True, **where
        )
        missing = [key for key in told["missing_keys"] if "pooler" not in key]
        if missing:
            raise WeightsError(
                f"--text-encoder {name}: weights are missing: {', '.join(sorted(missing)[:3])}"
            )
        if tokenizer.pad_token is None:  # GPT-2 has none; what stands there is masked out
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        network = network.to(device).eval().requires_grad_(requires_grad=False)
        digest = hashlib.sha256(
            json.dumps([tokenizer.get_vocab(), LONGEST, str(dtype)], sort_keys=True).encode()
        )
        for key, value in sorted(network.state_dict().items()):
            digest.update(
                key.encode() + value.detach().float().cpu().contiguous().numpy().tobytes()
            )
        teacher = Teacher(
            name, digest.hexdigest(), _whole_words(tokenizer.get_vocab()), network, tokenizer
        )
        teacher.features(["a red cat", ""])
    except T2IError:
        raise
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"--text-encoder {name}: out of memory on {device}", "use a smaller teacher"
        ) from error
    except (
        Exception
    ) as error:  # a folder of a stranger can fail in any way that its many readers know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "give a folder with config.json, a tokenizer and model.safetensors of a text model"
        raise WeightsError(
            f"--text-encoder {name}: cannot be used as a text model: {reason}", hint
        ) from error
    return teacher


def _whole_words(vocabulary: Iterable[str]) -> tuple[str, ...]:
    """Whole words among pieces: no ## (BERT), a leading ▁ or Ġ (T5, GPT-2), or a </w> (CLIP)."""
    pieces = list(vocabulary)
    start = max(("▁", "Ġ"), key=lambda mark: sum(piece.startswith(mark) for piece in pieces))
    if any(piece.endswith("</w>") for piece in pieces):
        found = {piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>")}
    elif sum(piece.startswith(start) for piece in pieces) > len(pieces) // 20:
        found = {piece[1:].lower() for piece in pieces if piece.startswith(start)}
    else:
        found = set(pieces)
    return tuple(sorted(word for word in found if _WORD.fullmatch(word)))


def make_lessons(
    teacher: Teacher, captions: Iterable[str], cache: Path, *, recolour: bool = True, seed: int = 0
) -> Progress:
    """Let a teacher read everything that it is to teach; what it said is kept in the cache folder.

    Args:
        teacher: who reads.
        captions: what may stand beside a picture.
        cache: folder for the file of features.
        recolour: whether captions are also met in other colours.
        seed: of the choice of rewritten captions.

    Yields:
        (done, total) texts.

    Returns:
        The lessons: captions, captions in other colours, captions with a word replaced, single words.
    """
    own = sorted(set(captions))
    known = set(own)
    if recolour:
        turned = {
            with_colour(text, colour) for text in own if colour_of(text) for colour in COLOURS
        }
        own += sorted(turned - known)
    digest = hashlib.sha256(
        json.dumps([_PLAN, NEIGHBOURS, NEAR, seed, teacher.digest, own]).encode()
    ).hexdigest()
    path = cache / "teacher" / f"{digest[:32]}.safetensors"
    with contextlib.suppress(
        T2IError, KeyError, ValueError
    ):  # none there, or a broken one: read again
        tensors, told = load_tensors(path)
        texts, sources = json.loads(tensors["texts"].numpy().tobytes()), json.loads(told["sources"])
        if len(texts) == len(tensors["features"]) == len(own) + len(sources):
            return Lessons.of(texts, tensors["features"], len(own), sources, digest)
    used = _words_of(known)
    more = len(own) + len(known)  # rewritten captions: at most one each
    words, alone = yield from read_words(teacher, known, cache, more)
    extra, sources = _rewritten(own[: len(known)], used, words, alone, np.random.default_rng(seed))
    singles = [(row, f"a {word}") for row, word in enumerate(words) if f"a {word}" not in known]
    rest = yield from _read(teacher, own + extra, len(words), len(words) + len(own) + len(extra))
    texts = own + extra + [text for _, text in singles]
    sources += [-1] * len(singles)
    features = torch.cat([rest, alone[[row for row, _ in singles]]]).half()
    written = torch.frombuffer(bytearray(json.dumps(texts).encode()), dtype=torch.uint8)
    with contextlib.suppress(T2IError, OSError):  # a cache that cannot be written costs time alone
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(
            path, {"features": features, "texts": written}, {"sources": json.dumps(sources)}
        )
    return Lessons.of(texts, features, len(own), sources, digest)


def read_words(
    teacher: Teacher, captions: Iterable[str], cache: Path, more: int = 0
) -> Generator[tuple[int, int], None, tuple[list[str], Tensor]]:
    """Let a teacher read single words: those of its own vocabulary and those of captions.

    Args:
        teacher: who reads.
        captions: whose words.
        cache: folder for the file of features.
        more: texts that are read after these, for the total.

    Yields:
        (done, total) texts.

    Returns:
        n words in alphabetical order, and their features, fp32 (n, e), unit norm.
    """
    words = sorted({*teacher.words, *_words_of(captions)})
    digest = hashlib.sha256(json.dumps([_PLAN, teacher.digest, words]).encode()).hexdigest()
    path = cache / "teacher" / f"words-{digest[:32]}.safetensors"
    with contextlib.suppress(T2IError, KeyError):  # none there, or a broken one: read again
        features = load_tensors(path)[0]["features"]
        if len(features) == len(words):
            return words, features
    features = yield from _read(teacher, words, 0, len(words) + more)
    with contextlib.suppress(T2IError, OSError):  # a cache that cannot be written costs time alone
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {"features": features}, {})
    return words, features


def _words_of(captions: Iterable[str]) -> list[str]:
    return sorted({word for text in captions for word in _WORD.findall(text.lower())})


def _read(
    teacher: Teacher, texts: list[str], done: int, total: int
) -> Generator[tuple[int, int], None, Tensor]:
    """Features fp32 (n, e) of texts, those of like length together so that little is padded."""
    order = sorted(
        range(len(texts)), key=lambda row: (len(texts[row].split()), len(texts[row]), row)
    )
    parts: list[Tensor] = []
    for start in range(0, len(order), ROWS):
        parts.append(teacher.features([texts[row] for row in order[start : start + ROWS]]))
        yield done + min(start + ROWS, len(order)), total
    found = torch.cat(parts)
    features = torch.empty_like(found)
    features[order] = found
    return features


def _rewritten(
    captions: list[str],
    used: list[str],
    words: list[str],
    alone: Tensor,
    random: np.random.Generator,
) -> tuple[list[str], list[int]]:
    """For each caption at most one with a word replaced by a near one; and that caption's row."""
    row_of = {word: row for row, word in enumerate(words)}
    alone = F.normalize(alone - alone.mean(0), dim=1)
    near: dict[str, list[str]] = {}
    for start in range(0, len(used), ROWS):
        some = used[start : start + ROWS]
        rows = torch.tensor([row_of[word] for word in some])
        cosines = alone[rows] @ alone.T
        cosines[torch.arange(len(rows)), rows] = -1
        best, at = cosines.topk(min(NEIGHBOURS, len(words) - 1), dim=1)
        for word, values, places in zip(some, best.tolist(), at.tolist(), strict=True):
            near[word] = [
                words[place] for value, place in zip(values, places, strict=True) if value > NEAR
            ]
    extra: list[str] = []
    sources: list[int] = []
    for row, text in enumerate(captions):
        spots = [spot for spot in _WORD.finditer(text) if near.get(spot.group())]
        if spots:
            spot = spots[int(random.integers(len(spots)))]
            others = near[spot.group()]
            extra.append(
                text[: spot.start()]
                + others[int(random.integers(len(others)))]
                + text[spot.end() :]
            )
            sources.append(row)
    return extra, sources
