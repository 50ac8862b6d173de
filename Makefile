# The only way anything is run here, by people and by CI alike. `make demo` and `make test` need Python 3.11+ and make.
#
#   PYTHON  the interpreter that makes the virtual environment        python3
#   VENV    where it lives                                            .venv
#   TORCH   what to ask pip for: a requirement, or a wheel's path     torch==2.13.0, else the range of pyproject.toml
#   DIST    where make wheel puts it                                  dist
#   PIP     more arguments for pip, such as an index of CPU builds    (none)
#   BENCH_MODEL, BENCH_DATA   what make bench measures and on what    the shipped model, examples/icons

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_RANGE := torch>=2.11,<2.14
PIP ?=
DIST ?= dist
PROMPT ?= a red cat
BENCH_MODEL ?= weights/icons.safetensors
BENCH_DATA ?= examples/icons
BIN := $(VENV)/bin
FOLDERS := $(VENV)/folders
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP)

.DEFAULT_GOAL := help
.PHONY: help demo venv test test-slow check lint format types imports examples wheel bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.run  ## one picture from the shipped model: out.png
	@$(BIN)/t2i sample "$(PROMPT)" -o out.png -f
	@echo "Here is your picture: $(CURDIR)/out.png   (more: $(BIN)/t2i sample -h)"

venv: $(VENV)/.dev  ## the virtual environment with everything that tests need

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "making $(VENV) and installing torch (the big part) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) "$(TORCH)" || $(PIP_INSTALL) "$(TORCH_RANGE)"
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.run

test: $(VENV)/.dev  ## the fast tests
	@$(BIN)/python -m pytest -q -m "not slow" -n auto --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev  ## the full counts of every promise (hours)
	@$(BIN)/python -m pytest -q -m slow -s $(ARGS)

check: lint types imports  ## ruff, pyright and import-linter

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.dev
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev  ## what ruff can mend by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

examples: $(VENV)/.dev  ## every examples/*.sh, as CI does
	@for script in examples/*.sh; do echo "== $$script"; PATH="$(abspath $(BIN)):$$PATH" bash "$$script" || exit 1; done
	@rm -rf "$(FOLDERS)" && $(BIN)/python tests/folders.py "$(FOLDERS)" excel coco zip_sidecar > /dev/null
	@for data in "$(FOLDERS)"/excel "$(FOLDERS)"/coco "$(FOLDERS)"/zip_sidecar/pictures.zip; do \
		echo "== examples/own_folder.sh $$data"; \
		TIME=20s PATH="$(abspath $(BIN)):$$PATH" bash examples/own_folder.sh "$$data" "a red cat" || exit 1; \
	done; rm -rf "$(FOLDERS)"

wheel: $(VENV)/.dev  ## dist/*.whl, with the shipped weights inside
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(DIST) .
	@$(BIN)/python -m zipfile -l $(DIST)/*.whl | grep -q 't2i_cli/weights/[^/]*[.]safetensors' || \
		{ echo "the wheel holds no weights" >&2; exit 1; }

# The others are run by hand, as their first lines say: planted_faults, text_encoder and train_eval_encoder train for
# minutes to hours, synonyms needs a language model, check_many makes a folder of 100,000 files, and the sheets of
# blind_naming (prompts in naming_prompts) are read by people.
bench: $(VENV)/.dev  ## what the shipped model costs and how good it is, on examples/icons (minutes)
	@set -e; run() { echo "== $$*"; OMP_NUM_THREADS=1 $(BIN)/python -m "benchmarks.$$@"; }; \
	run startup --rounds 3 --model $(BENCH_MODEL); \
	run sizes; \
	run warm --rounds 3 --model $(BENCH_MODEL); \
	run stream --count 500 --model $(BENCH_MODEL); \
	run data_loading $(BENCH_DATA); \
	run training_step --rounds 1; \
	run retrieval $(BENCH_MODEL) $(BENCH_DATA); \
	run colour_pairs $(BENCH_MODEL) $(BENCH_DATA) --count 60; \
	run originality $(BENCH_MODEL) $(BENCH_DATA) --count 60 --prompts 8; \
	run rewordings $(BENCH_MODEL) $(BENCH_DATA) --count 60 --split ''

clean:  ## remove what make and the tools left here
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
