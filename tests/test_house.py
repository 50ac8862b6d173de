"""The rules of the house that no linter knows: who may import what, and what a stranger's file never reaches."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import t2i_cli

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "t2i_cli"
FILES = sorted(PACKAGE.rglob("*.py"))
OWNERS = {  # the only files that may import a package
    "typer": {"cli.py", "console.py"},
    "rich": {"cli.py", "console.py"},
    "sentencepiece": {"tokenizer.py"},
    "PIL": {"images.py"},
    "onnxruntime": {"libraries.py"},
    "transformers": {"libraries.py"},
}
FAST = (  # importing these loads no torch
    "t2i_cli",
    "t2i_cli.cli",
    "t2i_cli.console",
    "t2i_cli.errors",
    "t2i_cli.config",
    "t2i_cli.noise",
    "t2i_cli.pixels",
    "t2i_cli.images",
    "t2i_cli.tokenizer",
    "t2i_cli.tokenize",
    "t2i_cli.data",
    "t2i_cli.checkpoint",
    "t2i_cli.check",
    "t2i_cli.info",
    "t2i_cli.sample",
    "t2i_cli.quick",
    "t2i_cli.like",
    "t2i_cli.relatives",
    "t2i_cli.references",
    "t2i_cli.solver",
    "t2i_cli.runtime",
    "t2i_cli.runtime.onnx_runtime",
    "t2i_cli.runtime.graphs",
)


def imports_of(path: Path) -> set[str]:
    """The packages that a file imports anywhere, those for type checkers alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body
        for inner in ast.walk(child)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_only_its_owner_imports_a_package(package: str) -> None:
    users = {path.relative_to(PACKAGE).as_posix() for path in FILES if package in imports_of(path)}
    assert users <= OWNERS[package]
    assert users  # or the rule guards nothing


def test_fast_modules_do_not_import_torch() -> None:
    code = "import sys\nfrom importlib import import_module\n"
    code += "".join(
        f"import_module({name!r})\nassert 'torch' not in sys.modules, {name!r}\n" for name in FAST
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_unpickles_a_file() -> None:
    banned = re.compile(
        r"\b(pickle\.loads?|torch\.load|yaml\.load|joblib\.load|marshal\.loads?|shelve\.open|"
        r"distributed\.checkpoint|allow_pickle\s*=\s*True)\b|\beval\(|\bexec\(|pipe:"
    )
    for path in FILES:
        assert not {"pickle", "marshal", "shelve", "yaml", "joblib", "dill"} & imports_of(path), (
            path
        )
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code = line.partition("#")[0]
            if ".eval(" in code:  # a network's eval mode
                code = code.replace(".eval(", "")
            assert not banned.search(code), f"{path}:{number}: {line.strip()}"


def test_no_module_is_named_for_nothing() -> None:
    names = {path.stem for path in FILES}
    assert not names & {"utils", "common", "helpers", "misc", "legacy", "new", "v2"}


def test_every_public_name_exists_and_import_is_free() -> None:
    for name in t2i_cli.__all__:
        assert getattr(t2i_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        t2i_cli.nothing  # noqa: B018
    heavy = {"numpy", "torch", "rich", "typer", "PIL"}
    code = f"import sys, t2i_cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_module_opens_with_what_it_does() -> None:
    for path in FILES:
        assert (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").strip(), path


def test_package_data_and_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"]["t2i"] == "t2i_cli.__main__:main"
    assert "torch>=2.11,<2.14" in project["project"]["dependencies"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {
        "weights": "t2i_cli/weights"
    }
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def bench_lines() -> list[list[str]]:
    """The name and arguments of each benchmark that `make bench` runs."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(BENCH_\w+) \?= (.*)$", text, re.MULTILINE))
    lines = re.findall(r"^\trun (.+?)(?:; \\)?$", text, re.MULTILINE)
    assert len(lines) > 5
    return [
        shlex.split(re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], line)) for line in lines
    ]


def test_make_bench_runs_what_is_there_on_what_is_there() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    by_hand = text.partition("# The others are run by hand")[2].partition("\nbench:")[0]
    lists = {"__init__", "naming_prompts", "synonyms"}
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - lists
    run = {line[0] for line in bench_lines()}
    assert run <= names
    assert names - run == {name for name in names if name in by_hand}
    for line in bench_lines():
        for word in line[1:]:
            assert "/" not in word or (ROOT / word).exists(), word


def test_docs_link_to_files_that_exist() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
