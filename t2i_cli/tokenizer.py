"""Text -> tokens. Captions in, a sentencepiece unigram model with byte fallback out; any text can be read by it.

The only file that imports sentencepiece (Kudo & Richardson 2018; unigram: Kudo 2018).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece as spm

from t2i_cli.errors import OutputError, TokenizerError

__all__ = ["BOS", "EOS", "PAD", "UNK", "Tokenizer", "train_tokenizer"]

PAD, UNK, BOS, EOS = 0, 1, 2, 3  # the token ids that every tokenizer here shares
MAX_BYTES = 16 * 2**20  # a larger file is no tokenizer of ours


class Tokenizer:
    """A sentencepiece model: text to token ids and back to the pieces that a person can read.

    Args:
        model: the bytes of a sentencepiece model file.

    Raises:
        TokenizerError: the bytes are no such model, or its special tokens are not at ids 0 to 3.
    """

    def __init__(self, model: bytes) -> None:
        if not 0 < len(model) <= MAX_BYTES:
            raise TokenizerError(
                f"not a tokenizer: {len(model)} bytes", "expected a sentencepiece model"
            )
        try:
            self._processor = spm.SentencePieceProcessor(model_proto=model)
            special = [
                self._processor.pad_id(),
                self._processor.unk_id(),
                self._processor.bos_id(),
                self._processor.eos_id(),
            ]
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            raise TokenizerError(
                "not a tokenizer: sentencepiece cannot read it", "make one: t2i tokenize --train"
            ) from error
        if special != [PAD, UNK, BOS, EOS]:
            raise TokenizerError(
                f"this tokenizer has its special tokens at {special}, expected {[PAD, UNK, BOS, EOS]}",
                "make one: t2i tokenize --train",
            )
        self._bytes = model

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """The tokenizer in a file.

        Raises:
            TokenizerError: the file is missing or is no tokenizer.
        """
        try:
            with Path(path).open("rb") as file:
                model = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise TokenizerError(f"{path}: {error.strerror or error}") from error
        try:
            return cls(model)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}", error.hint) from error

    def to_bytes(self) -> bytes:
        """The model as `Tokenizer` and `load` read it."""
        return self._bytes

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without start, end and padding."""
        return list(self._processor.encode(_clean(text)))

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text as they are spelt; U+2581 stands for a space."""
        return [str(piece) for piece in self._processor.encode(_clean(text), out_type=str)]

    def unknown(self, text: str) -> int:
        """How many tokens of a text stand for single bytes or for nothing: what the vocabulary does not hold."""
        return sum(self._processor.is_byte(token) or token == UNK for token in self.encode(text))

    def batch(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Texts -> tokens int64, mask bool (b, length): start, pieces, end, padding; cut to length."""
        tokens = np.full((len(texts), length), PAD, dtype=np.int64)
        for row, text in enumerate(texts):
            ids = [BOS, *self.encode(text)[: length - 2], EOS]
            tokens[row, : len(ids)] = ids
        return tokens, tokens != PAD


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """A unigram tokenizer with byte fallback, made from texts; case is folded, so "Cat" reads as "cat".

    Args:
        texts: captions, one an item. The same texts in the same order give the same tokenizer.
        vocab_size: pieces at most, the 256 bytes and 4 special tokens among them; fewer where the texts hold no more.

    Raises:
        TokenizerError: the texts hold nothing to learn from.
        OutputError: sentencepiece returned an empty model (it does so when a disk is full).
    """
    lines = [line for line in (_clean(text) for text in texts) if line.strip()]
    if not lines:
        raise TokenizerError(
            "no text to make a tokenizer from", "give captions: a data folder, a text file or -"
        )
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=max(vocab_size, 300),
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9999,
            normalization_rule_name="nmt_nfkc_cf",
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            num_threads=1,
            input_sentence_size=1_000_000,
            shuffle_input_sentence=False,
            max_sentence_length=16_384,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"sentencepiece could not learn from {len(lines)} texts: {error}"
        ) from error
    if not model.getvalue():
        raise OutputError("sentencepiece returned an empty tokenizer", "is the disk full?")
    return Tokenizer(model.getvalue())


def _clean(text: str) -> str:
    """Text that sentencepiece accepts: no NUL, no lone surrogates."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
