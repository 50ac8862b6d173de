import os
import threading

import pytest

from t2i_cli.errors import PromptError
from t2i_cli.noise import MAX_SEED
from t2i_cli.prompts import (
    MAX_LINE,
    BadLine,
    LineReader,
    Request,
    argument,
    open_prompts,
    parse_line,
    read_prompts,
    requests,
)


def reader_of(data):
    read, write = os.pipe()

    def feed():
        with os.fdopen(write, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    return LineReader(read), thread, read


def lines_of(data):
    reader, thread, fd = reader_of(data)
    lines = list(reader)
    thread.join()
    os.close(fd)
    return lines


def test_lines_keep_their_order_and_the_last_needs_no_newline():
    assert lines_of(b"a\n\nb\r\nc") == [b"a", b"", b"b\r", b"c"]
    assert lines_of(b"") == []
    many = b"".join(b"prompt %d\n" % number for number in range(30_000))
    assert lines_of(many) == many.splitlines()


def test_a_line_without_end_costs_bounded_memory():
    lines = lines_of(b"x" * 3_000_000 + b"\nnext")
    assert [len(line) for line in lines] == [MAX_LINE + 1, 4]


def test_ready_never_waits():
    read, write = os.pipe()
    reader = LineReader(read)
    assert not reader.ready()
    os.write(write, b"half")
    assert not reader.ready()
    os.write(write, b" a line\nmore")
    assert reader.ready()
    assert reader.next_line() == b"half a line"
    assert not reader.ready()
    os.close(write)
    assert reader.ready()
    assert reader.next_line() == b"more"
    assert reader.next_line() is None
    os.close(read)


def test_json_lines():
    line = (
        '{"prompt": " a cat ", "seed": 3, "n": 2, "out": "x.png", "id": 9, "negative": "dog", '
        '"style": "flat"}'
    )
    assert parse_line(line, 2) == Request("a cat", 3, 2, "x.png", "9", "dog", "flat", 2)
    own = '{"prompt": "a", "path": "a-0.png", "ms": 3.1, "width": 64, "references": [3, 5]}'
    assert parse_line(own) == Request("a")
    assert parse_line(f'{{"prompt": "a", "seed": {MAX_SEED}}}').seed == MAX_SEED
    assert parse_line(b"\xef\xbb\xbfa cat", 1).prompt == "a cat"


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"{not json",
        b"{" * 5000,
        b'{"prompt": ""}',
        b'{"prompt": 3}',
        b"{}",
        b'{"prompt": "a", "seed": -1}',
        b'{"prompt": "a", "seed": 1.5}',
        b'{"prompt": "a", "seed": true}',
        b'{"prompt": "a", "seed": 9223372036854775808}',
        b'{"prompt": "a", "n": 0}',
        b'{"prompt": "a", "out": 5}',
        b'{"prompt": "a", "id": [1]}',
        b'{"prompt": "a", "style": 3}',
        b'{"prompt": "a", "style": "\\ud800"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b"x" * (MAX_LINE + 1),
    ],
)
def test_a_bad_line_raises_and_names_itself(line):
    with pytest.raises(PromptError, match="line 7") as caught:
        parse_line(line, 7)
    assert len(str(caught.value)) < 500


def test_numbers_may_be_written_as_text():
    assert parse_line('{"prompt": "a", "seed": "7", "n": " 2 "}') == Request("a", 7, 2)
    assert parse_line('{"prompt": "a", "seed": 7.0}') == Request("a", 7)
    for bad in ('"7x"', '"-1"', '""', "7.5"):
        with pytest.raises(PromptError, match="seed is"):
            parse_line(f'{{"prompt": "a", "seed": {bad}}}')


def test_fields_that_say_nothing_are_named_once_and_cost_nothing():
    told = []
    lines = [b'{"prompt": "a", "sede": 3}', b'{"prompt": "b", "sede": 4, "stile": "flat"}']
    got = list(requests(iter(lines), told.append))
    assert [item.prompt for item in got] == ["a", "b"]
    assert [item.seed for item in got] == [None, None]
    assert len(told) == 2
    assert "line 1: the field sede is not known" in told[0]
    assert "line 2: the field stile is not known" in told[1]


def test_notes_and_empty_lines_are_passed_over():
    assert [parse_line(line, 1) for line in ("# mine", "  # too", "", "  ", "\ufeff# so")] == [
        None
    ] * 5
    assert argument("# a prompt on the command line").prompt.startswith("#")


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        "a cat\r\n\n# note\nein grüner Hund\n",
        '[{"prompt": "a cat"}, "ein grüner Hund"]',
        '[\n  {"prompt": "a cat"},\n  {"prompt": "ein grüner Hund"}\n]\n',
        'prompt,seed\r\na cat,7\r\n"ein grüner Hund",\r\n',
        "id;prompt\n1;a cat\n2;ein grüner Hund\n",
        '{"prompt": "a cat"}\n{"prompt": "ein grüner Hund"}',
    ],
)
def test_every_form_in_every_encoding(tmp_path, coding, text):
    (tmp_path / "list").write_bytes(text.encode(coding))
    assert read_prompts(str(tmp_path / "list")) == ["a cat", "ein grüner Hund"]
    lines = lines_of(text.encode(coding))
    got = [item.prompt for item in requests(iter(lines)) if item is not None]
    assert got == ["a cat", "ein grüner Hund"]


def test_a_csv_has_a_prompt_column_and_more(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('Name,Prompt,Seed\nx,"a cat,\nsitting",7\n,,\ny,a dog,\n')
    told = []
    got = [one for one in requests(iter(open_prompts(str(path))), told.append) if one is not None]
    assert [(one.prompt, one.seed) for one in got] == [("a cat,\nsitting", 7), ("a dog", None)]
    assert "the field name is not known" in told[0]
    path.write_text("text,seed\na cat,7\n")
    with pytest.raises(PromptError, match="no prompt column; the columns are text, seed"):
        read_prompts(str(path))


@pytest.mark.parametrize("text", ["[red] cat", '["a" cat', "[", "prompt, a cat", "a cat, prompt"])
def test_a_prompt_that_only_looks_like_a_table_is_a_prompt(text):
    assert lines_of(text.encode()) == [text.encode()]


def test_a_file_without_prompts_is_told(tmp_path):
    (tmp_path / "list").write_text("# nothing\n\n")
    with pytest.raises(PromptError, match="holds no prompt"):
        read_prompts(str(tmp_path / "list"))


def test_a_bad_line_costs_that_line():
    got = list(requests(iter([b"a cat", b'{"prompt"', b"", b"a dog"])))
    assert [type(item) for item in got] == [Request, BadLine, type(None), Request]
    assert got[1].line == 2
    assert got[3] == Request("a dog", line=4)


def test_control_characters_in_an_error_are_visible():
    with pytest.raises(PromptError) as caught:
        parse_line('{"prompt": "a", "seed": "\x1b[31m\u202e"}'.replace("\x1b", "\\u001b"), 1)
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)


def test_arguments_are_never_json():
    assert argument('{"prompt": "a"}').prompt == '{"prompt": "a"}'
    for bad in ("", "  ", "a\udc80", "x" * (MAX_LINE + 1)):
        with pytest.raises(PromptError):
            argument(bad)


def test_open_prompts(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"a\nb\n")
    reader = open_prompts(str(path))
    assert list(reader) == [b"a", b"b"]
    os.close(reader.fd)
    for bad in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(PromptError):
            open_prompts(str(bad))
