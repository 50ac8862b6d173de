"""``python -m t2i_cli`` and the ``t2i`` command: run it, flush, and leave without waiting for libraries to unload."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and end the process with its exit code."""
    try:
        code = None
        if sys.argv[1:2] == ["sample"]:
            gc.disable()  # looking for garbage while modules load costs 10 ms; `quick` turns it on again
            from t2i_cli.quick import quick

            try:
                code = quick(sys.argv[2:])  # without typer, where the line is plain
            except BaseException as error:
                from t2i_cli.cli import ended

                code = ended(error)
        if code is None:
            from t2i_cli.cli import run

            code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command line could take care of it
        code = 130
    os._exit(code)  # `run` has flushed; unloading torch costs a third of what importing it does


if __name__ == "__main__":
    main()
