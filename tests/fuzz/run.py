"""Fuzz one target with atheris: ``python -m tests.fuzz.run TARGET [options of libFuzzer]``. See README.md here."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["t2i_cli", "PIL"]):
        from tests.fuzz.targets import TARGETS, seeds
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.run {'|'.join(TARGETS)} [-max_total_time=120 ...]")
    target = sys.argv.pop(1)
    corpus = Path(tempfile.mkdtemp(prefix=f"t2i-fuzz-{target}-"))
    for number, seed in enumerate(seeds(target)):
        (corpus / str(number)).write_bytes(seed)
    files = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    atheris.Setup(
        [*sys.argv, *([] if files else [str(corpus), "-max_len=200000"])], TARGETS[target]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
