.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-cluster bench check lock golden embeddings

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
BIN := .venv/bin
# Where it is set, every process of the tests would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

help:  ## this list
	@grep -hE '^[.a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

quickstart: .venv  ## from nothing to sound: renders notes, trains both stages, samples
	$(BIN)/mars quickstart

test: .venv  ## all tests but the long ones of clusters, in two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2

test-cluster: .venv  ## clusters, jobs, sweeps; nodes and hosts that are lost (root, for network namespaces)
	$(BIN)/pytest -m cluster

bench: .venv  ## how fast everything is here, into docs/benchmarks; nothing else should run beside it
	$(BIN)/python benchmarks/bench.py --out bench

check: .venv  ## lint, format, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# musicnn's own dependencies are TensorFlow's; its weights are read without it.
embeddings: .venv  ## musicnn (FAD, KID) and swift-f0 (pitch): docs/metrics.md
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --constraint requirements.lock \
		--requirement pyproject.toml --extra embeddings
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps musicnn==0.1.0

golden: .venv  ## remakes the golden losses; read their diff
	REMAKE_GOLDEN=1 $(BIN)/pytest tests/training -k golden

lock: .venv  ## newest versions that fit pyproject.toml, for Python 3.11 and later
	$(BIN)/uv pip compile pyproject.toml --extra notes --extra optuna --extra dev --universal --python-version 3.11 --upgrade \
		--no-annotate --no-header --no-emit-package pyaudio --output-file requirements.lock

.PHONY: .venv
.venv: .venv/installed  ## the environment alone

# uv comes from PyPI through the venv's own pip: nothing but Python and make is asked of the machine. Bytecode is made
# here, once: where PYTHONDONTWRITEBYTECODE is set, every process would else compile torch anew, for seconds.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --compile-bytecode \
		--requirement requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
