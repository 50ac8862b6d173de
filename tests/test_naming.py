import errno
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_cli import naming
from t2i_cli.errors import OutputError, PromptError, UsageError
from t2i_cli.naming import Fields, Template, expanded, inside, safe_part, slug, write_new


def fields(prompt="a red cat", **more):
    return Fields(**{"i": 4, "k": 1, "seed": 7, "prompt": prompt, **more})


def test_templates():
    assert Template("out/{i:05}-{slug}-{seed}.png").expand(fields()) == "out/00004-a-red-cat-7.png"
    assert (
        Template("{id}/{k:02d}-{model}.png").expand(fields(id="x/../y", model="m"))
        == "x_.._y/01-m.png"
    )
    assert Template("{{}}.png").expand(fields()) == "{}.png"
    assert not Template("{model}.png").varies
    assert Template("{seed}").varies
    with pytest.raises(PromptError, match="id"):
        Template("{id}.png").expand(fields())


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        "{0}",
        "{prompt}",
        "{i.__class__}",
        "{i[0]}",
        "{i!r}",
        "{i:99999999}",
        "{slug:5}",
        "{i:{k}}",
        "}",
    ],
)
def test_a_template_that_cannot_be_is_a_usage_error(text):
    with pytest.raises(UsageError):
        Template(text)


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_any_prompt_gives_one_safe_part(prompt):
    for name in (slug(prompt), safe_part(prompt), slug(prompt, 12)):
        assert name
        assert not set(name) & set('/\\\0\n\r\x1b:*?"<>|')
        assert not name.startswith((".", "-", "~"))
        assert len(os.fsencode(name)) <= 130
        assert name.encode("utf-8")
    part = Template("{slug}" * 20 + ".png").expand(fields(prompt))
    assert len(os.fsencode(part)) <= 255 or len(slug(prompt, 12)) * 20 > 250


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Eine schöne Straße", "eine-schöne-straße"),
        ("赤い猫", "赤い猫"),
        ("-rf", "rf"),
        ("con", "con-prompt"),
        ("COM1", "com1-prompt"),
        ("a\0b\x1b[31m", "a-b-31m"),
        ("हिन्दी", "हिन्दी"),
    ],
)
def test_slugs(prompt, name):
    assert slug(prompt) == name


def test_long_prompts_keep_different_names():
    one, two = slug("a " * 500 + "cat"), slug("a " * 500 + "dog")
    assert one != two
    assert len(one.encode()) <= 80
    assert slug("🦊") != slug("🐱")


def test_a_name_of_a_stranger_stays_inside(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "sub").mkdir()
    (base / "leak").symlink_to(tmp_path)
    assert inside(str(base), "sub/x.png") == f"{base}/sub/x.png"
    assert inside("", "x.png") == "x.png"
    for bad in (
        "../x",
        "sub/../../x",
        "/etc/x",
        "leak/x",
        "a\0",
        "a\x1b",
        "C:x",
        "\\x",
        "-rf",
        "CON",
        "nul.png",
        "sub/",
        "a\u202e",
        "a\u2028",
        "a\ue000",
    ):
        with pytest.raises(PromptError):
            inside(str(base), bad)


def test_a_folder_that_a_prompt_names_does_not_lead_out_through_a_link(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "cat").symlink_to(tmp_path)
    for text in ("{slug}/{k}.png", "{i:03}/{id}/x.png", "x{k}/{slug}-{id}/y/{i}.png"):
        template = Template(f"{tmp_path}/base/{text}")
        assert expanded(template, Fields(0, 1, 2, "dog", "dog")) == template.expand(
            Fields(0, 1, 2, "dog", "dog")
        )
    with pytest.raises(PromptError, match="leads out"):
        expanded(Template(f"{tmp_path}/base/{{slug}}/{{k}}.png"), Fields(0, 0, 0, "cat"))
    # a link that the user's own words name is the user's
    assert expanded(Template(f"{tmp_path}/base/cat/{{slug}}.png"), Fields(0, 0, 0, "cat"))


def test_write_new_never_overwrites(tmp_path):
    path = tmp_path / "a" / "b" / "x.png"
    assert write_new(str(path), b"one")
    assert not write_new(str(path), b"two")
    assert path.read_bytes() == b"one"
    assert write_new(str(path), b"two", overwrite=True)
    assert path.read_bytes() == b"two"
    assert [item.name for item in path.parent.iterdir()] == ["x.png"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_link_is_followed_where_overwriting_was_asked_for(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    for name, to in (("alive", target), ("dangling", tmp_path / "none")):
        link = tmp_path / name
        link.symlink_to(to)
        assert not write_new(str(link), b"new")
        assert target.read_bytes() == b"precious" or name == "dangling"
        assert write_new(str(link), b"new", overwrite=True)
        assert link.is_symlink()
        assert to.read_bytes() == b"new"
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(OutputError, match="circle"):
        write_new(str(tmp_path / "round"), b"new", overwrite=True)
    assert (tmp_path / "round").is_symlink()


def test_a_link_that_a_prompt_names_is_followed_inside_its_folder_alone(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "cat.png").symlink_to(tmp_path / "precious")
    (base / "dog.png").symlink_to(base / "other.png")
    with pytest.raises(PromptError, match="leads out"):
        inside(str(base), "cat.png")
    assert inside(str(base), "dog.png") == f"{base}/dog.png"
    template = Template(f"{base}/{{slug}}.png")
    with pytest.raises(PromptError, match="leads out"):
        expanded(template, Fields(0, 0, 0, "cat"))
    assert expanded(template, Fields(0, 0, 0, "dog")) == f"{base}/dog.png"


def test_without_hard_links_it_still_never_overwrites(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(naming.os, "link", refused)
    path = tmp_path / "x.png"
    assert write_new(str(path), b"one")
    assert not write_new(str(path), b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(naming.os, "write", full)
    with pytest.raises(OutputError, match=r"No space") as caught:
        write_new(str(tmp_path / "x.png"), b"one")
    assert "--skip-existing" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300, "", "a\0b"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(OutputError):
        write_new(f"{tmp_path}/{name}", b"one")


WRITER = """
import sys
from t2i_cli.naming import write_new
folder, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
won = sum(write_new(f"{folder}/{i}.png", who.encode() * 4096) for i in range(count))
print(won)
"""


def race(folder, writers, count):
    procs = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, folder, str(who), str(count)], stdout=subprocess.PIPE
        )
        for who in range(writers)
    ]
    return [int(proc.communicate()[0]) for proc in procs]


def whole(folder, count):
    files = sorted(folder.iterdir())
    assert len(files) == count
    for file in files:
        data = file.read_bytes()
        assert len(data) == 4096
        assert len(set(data)) == 1


def test_two_writers_of_the_same_names_make_whole_files(tmp_path):
    assert sum(race(tmp_path, 2, 200)) == 200
    whole(tmp_path, 200)
