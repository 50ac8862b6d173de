"""The verb of ``t2i tokenize``: prompts -> what the model reads in them, and captions -> a new tokenizer file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_cli.checkpoint import read_reader, resolve_model, write_atomic
from t2i_cli.errors import OutputError, TokenizerError, UsageError
from t2i_cli.prompts import MAX_LINE, LineReader, open_prompts, parse_line
from t2i_cli.tokenizer import Tokenizer, train_tokenizer
from t2i_cli.words import LITERAL, Words

if TYPE_CHECKING:
    from t2i_cli.data import ReadOptions

__all__ = ["load_reader", "prompts_of", "tokenize", "train"]


_DATA_FILES = (".tar", ".tgz", ".gz", ".zip", ".parquet")  # what else but a folder is a data set


def load_reader(model: str | None = None) -> tuple[Tokenizer, Words]:
    """What a model reads prompts with: of a weights file, a run folder, a shipped name, or a bare ``tokenizer.model``.

    Raises:
        WeightsError, TokenizerError: there is none, or it is damaged.
        InputError: the run's list of words is none.
    """
    path = Path(model) if model is not None else None
    if path is not None and path.suffix == ".model":
        return Tokenizer.load(path), LITERAL
    if path is not None and (path / "tokenizer.model").is_file():
        return Tokenizer.load(path / "tokenizer.model"), Words.load(path / "words.txt")
    tokenizer, words = read_reader(resolve_model(model))
    return Tokenizer(tokenizer), Words.from_bytes(words)


def prompts_of(arguments: Sequence[str], *, piped: bool) -> Iterator[str]:
    """The prompts that were given: the arguments, or the lines of stdin for ``-`` or, without arguments, a pipe.

    Args:
        arguments: as typed.
        piped: whether stdin is no terminal.

    Raises:
        UsageError: there is nothing to read.
        PromptError: a line is no prompt.
    """
    if not arguments and not piped:
        raise UsageError("no text", 't2i tokenize "a red cat", or - to read lines')
    for argument in arguments or ["-"]:
        if argument != "-":
            yield argument
            continue
        for number, raw in enumerate(open_prompts("-"), 1):
            request = parse_line(raw, number)
            if request is not None:
                yield request.prompt


def tokenize(
    prompts: Iterable[str], model: str | None = None, *, literal: bool = False
) -> Iterator[dict[str, Any]]:
    """What a model reads in each prompt: rows with text, ids, pieces and unknown_tokens.

    Unknown tokens stand for single bytes: what the vocabulary does not hold. Where words that the model does not know
    are read as ones that it does (`t2i_cli.words`), ``read_as`` is the prompt as it is read, and the rest is of that.

    Args:
        prompts: texts.
        model: whose.
        literal: read every prompt letter for letter.
    """
    tokenizer, words = load_reader(model)
    for prompt in prompts:
        read = prompt if literal else words.read(prompt)
        row: dict[str, Any] = {
            "text": prompt,
            "ids": tokenizer.encode(read),
            "pieces": tokenizer.pieces(read),
            "unknown_tokens": tokenizer.unknown(read),
        }
        yield row | ({"read_as": read} if read != prompt else {})


def train(
    source: str,
    out: Path,
    *,
    vocab_size: int = 4096,
    force: bool = False,
    options: ReadOptions | None = None,
) -> dict[str, Any]:
    """Make a tokenizer file from the captions of a data set, the lines of a text file, or stdin (``-``).

    The file is written whole or not at all, and read back before this returns: sentencepiece says it succeeded
    with an empty model when a disk is full.

    Returns:
        path, vocab_size (pieces, fewer than asked for where the texts hold no more) and texts (how many were read).

    Raises:
        UsageError: a vocabulary size that cannot be.
        TokenizerError, DataError: nothing to learn from.
        OutputError: ``out`` exists and not ``force``, or it could not be written.
    """
    if not 300 <= vocab_size <= 262_144:
        raise UsageError(
            f"--vocab-size {vocab_size}: out of range", "use 300 to 262144; 256 pieces are bytes"
        )
    if out.is_file() and not force:
        raise OutputError(f"{out}: exists", "overwrite it with -f, or choose another name with -o")
    texts = _texts(source, options)
    tokenizer = train_tokenizer(texts, vocab_size)
    write_atomic(out, tokenizer.to_bytes(), overwrite=force)
    if out.is_file():
        Tokenizer.load(out)
    return {"path": str(out), "vocab_size": tokenizer.vocab_size, "texts": len(texts)}


def _texts(source: str, options: ReadOptions | None) -> list[str]:
    path = Path(source)
    is_data = path.is_dir() or path.suffix in _DATA_FILES or path.stem == "metadata"
    if source != "-" and (is_data or not path.exists()):
        from t2i_cli import data

        report = data.scan(path, options)
        return [caption for record in report.records for caption in record.captions]
    name = "standard input" if source == "-" else source
    return list(_lines(open_prompts(source), name))


def _lines(reader: LineReader, name: str) -> Iterator[str]:
    for number, raw in enumerate(reader, 1):
        if len(raw) > MAX_LINE:
            raise TokenizerError(
                f"{name}, line {number}: longer than {MAX_LINE} bytes", "is this a text file?"
            )
        try:
            text = raw.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise TokenizerError(
                f"{name}, line {number}: not UTF-8", "save the file as UTF-8"
            ) from None
        if text:
            yield text
