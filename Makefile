# The commands of the house; CI runs the same ones. `make demo` and `make test` are the two of the README.
#
#   TORCH        what the tests and the rehearsal install as torch; any CPU build serves
#   TORCH_INDEX  where from: empty is your pip's default index. On Linux x86-64 PyPI's own torch brings several
#                gigabytes of CUDA libraries; https://download.pytorch.org/whl/cpu is a CPU build of about 200 MB
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV ?= .venv
DEMO ?=
BIN := $(VENV)/bin
TORCH_FROM := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),)

.DEFAULT_GOAL := help
.PHONY: help setup enable demo test lint type fmt bench clean

help:
	@echo "make demo    set up and run the main job: this machine's GPU enabled and proven, or the named cause"
	@echo "make test    set up and run the tests (CPU only, no GPU needed)"
	@echo "make lint | type | fmt | bench | setup | enable | clean"

# One message that names what is missing, before anything is made.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "ongpu needs Python 3.11 or newer as '$(PYTHON)'. Install it (Debian, Ubuntu: apt install python3 python3-venv), or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python has no venv. Install it (Debian, Ubuntu: apt install python3-venv), then run make again." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The core: no torch. Enough for `ongpu enable`, which makes the GPU environment itself.
$(VENV)/.core: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# torch first and alone, so that no range in a dependency can choose another build.
$(VENV)/.training: $(VENV)/.core
	$(BIN)/python -m pip install --quiet $(TORCH_FROM) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[training]"
	@touch $@

$(VENV)/.dev: $(VENV)/.training
	$(BIN)/python -m pip install --quiet --editable ".[training,sign,dev]"
	@touch $@

setup: $(VENV)/.dev

enable: $(VENV)/.core
	$(BIN)/ongpu enable $(DEMO)

# Strict first. Only where there is no GPU at all, and after the true verdict, the rehearsal, named as such.
demo: $(VENV)/.core
	@$(BIN)/ongpu enable $(DEMO); status=$$?; \
	if [ $$status -ne 3 ] || ! $(BIN)/ongpu probe --json | $(BIN)/python -c 'import json, sys; sys.exit(bool(json.load(sys.stdin)["devices"]))'; then exit $$status; fi; \
	echo; echo "The verdict above stands. What follows is a REHEARSAL on the CPU: it shows every phase and proves nothing."; echo; \
	$(MAKE) --no-print-directory $(VENV)/.training && $(BIN)/ongpu enable --rehearse rtx5090-linux --python $(BIN)/python

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.dev
	$(BIN)/mypy

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
