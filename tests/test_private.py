"""Reliability 19: no command opens a socket, and none writes outside the paths it was given, the cache and TMPDIR."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from t2i_cli.libraries import SILENCE
from tests.guard import CAN_GUARD, KILLED, Guarded, run_guarded
from tests.toy_weights import save_toy

pytestmark = pytest.mark.skipif(not CAN_GUARD, reason="the guard is for Linux on x86-64 and ARM")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, captioned_folder: Path) -> Path:
    """A folder with data and a model that the commands of this file work in."""
    world = tmp_path_factory.mktemp("world")
    here = world / "here"
    here.mkdir()
    shutil.copytree(captioned_folder, here / "data")
    save_toy(here / "toy.safetensors")
    (here / "prompts.txt").write_text("a red ball\na blue bar\n")
    return world


def clean(found: Guarded, code: int = 0) -> Guarded:
    assert found.sockets == 0
    assert found.done.returncode == code, found.done.stderr
    assert found.outside == []
    assert found.left == []
    return found


TRAIN = ("train", "data", "--steps", 4, "--resolution", 32, "--batch-size", 4, "-o", "run")
COMMANDS: dict[str, tuple[object, ...]] = {
    "help": ("--help",),
    "version": ("--version",),
    "check": ("check", "data"),
    "tokenize": ("tokenize", "a red cat"),
    "tokenize --train": ("tokenize", "--train", "data", "-o", "made.model"),
    "sample, cold": ("sample", "a red ball", "-o", "cold.png"),
    "sample, warm": ("sample", "a red ball", "-o", "warm.png"),
    "sample, own model, cold": ("sample", "a red ball", "-m", "toy.safetensors", "-o", "toy.png"),
    "sample, a file of prompts": ("sample", "-i", "prompts.txt", "-o", "many/{i}.png", "--json"),
    "sample --grid": ("sample", "a red ball", "-n", 2, "--grid", "-o", "grid.png"),
    "sample --morph": ("sample", "a fox", "--morph", "a dog", "--frames", 2, "-o", "morph.gif"),
    "sample --vary": ("sample", "a ball", "--vary", "cold.png", "-o", "near.png", "-m", "toy.safetensors"),
    "sample --best-of": ("sample", "a red ball", "--best-of", 2, "-o", "best.png"),
    "train --dry-run": (*TRAIN, "--dry-run"),
    "train": TRAIN,
    "train --resume": (*TRAIN, "--resume"),
    "info": ("info", "run"),
    "info, weights": ("info",),
    "export": ("export", "toy.safetensors", "-o", "onnx"),
    "eval": ("eval", "toy.safetensors", "data", "-n", 10, "--metrics", "kid,text", "--report", "r.html"),
    "eval, a folder": ("eval", "data", "data", "-n", 10, "--metrics", "kid"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_no_socket_and_no_file_elsewhere(name: str, world: Path) -> None:
    clean(run_guarded(world, COMMANDS[name]))


@pytest.mark.parametrize("what", ["--text-encoder", "--features"])
def test_a_folder_of_a_transformers_model_asks_no_hub(what: str, world: Path) -> None:
    pytest.importorskip("transformers")
    made = subprocess.run(
        [sys.executable, "-c", _MODELS, str(world / "here")], capture_output=True, text=True,
        env={**os.environ, "HOME": str(world / "maker"), **SILENCE},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    if what == "--features":
        command: tuple[object, ...] = (
            "eval",
            "data",
            "data",
            "-n",
            10,
            "--metrics",
            "kid",
            "--features",
            "./dino",
        )
    else:
        command = (*TRAIN[:-1], "taught", "--text-encoder", "./bert")
    clean(run_guarded(world, command))


_MODELS = """
import sys, torch, transformers
from pathlib import Path
bert, dino = (Path(sys.argv[1], name) for name in ("bert", "dino"))
bert.mkdir(exist_ok=True)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "in", "red", "blue", "ball"]
(bert / "vocab.txt").write_text("\\n".join(words))
transformers.BertTokenizer(str(bert / "vocab.txt")).save_pretrained(bert)
small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
sizes = dict(small, vocab_size=len(words), intermediate_size=32, max_position_embeddings=70)
transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(bert)
transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=28, patch_size=14)).save_pretrained(dino)
(dino / "preprocessor_config.json").write_text('{"size": 28}')
"""


def test_the_guard_sees_a_socket_and_a_file_elsewhere(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.guard import forbid_sockets, watch_files\n"
        "watch_files(sys.argv[2]); open(sys.argv[3], 'w').close()\n"
        "forbid_sockets()\nimport socket; socket.socket(); print('not killed')\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(tmp_path / "report"), str(tmp_path / "file")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == KILLED and not done.stdout
    assert (tmp_path / "report").read_text().splitlines() == [str(tmp_path / "file")]


def test_in_code_onnxruntime_is_told_before_it_is_imported() -> None:
    code = (
        "import os, sys\nfrom t2i_cli import libraries\n"
        "assert 'onnxruntime' not in sys.modules\nlibraries.onnxruntime()\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    kept = {name: value for name, value in os.environ.items() if name not in SILENCE}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent,
        env={**kept, "ORT_DISABLE_TELEMETRY": "0"},
    )  # fmt: skip
    assert done.stdout.strip() == "1", done.stderr
