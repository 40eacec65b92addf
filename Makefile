# Every target makes its own environment in .venv first and says what it is doing.
# Variables: PYTHON (interpreter for the environment), TORCH_INDEX (where torch comes from on a machine without a GPU,
# see scripts/install_torch.py), MODEL (for `demo` and `serve`), ENGINES, PORT, BLOCKS (for `serve`), MINUTES and SOAK (pytest
# arguments) for `soak`, LONGER (minutes: `test` runs the longer tests, too, and begins none of them later).

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

ENGINES ?= 2
PORT ?= 8000
BLOCKS ?= 4096
MINUTES ?= 10
# Tests of one file share what it starts, so they stay together.
SIDE_BY_SIDE := -n 2 --dist loadfile

# Installed packages only: a stray `kernels` or `proto` folder in the working directory must never be imported.
export PYTHONSAFEPATH := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test clients compose-test check soak fmt docs cubins triton36 peers

help:
	@echo "make demo    [MODEL=tiny]: a small real model, two engines, one shared pool: agents' answers and the facts about them"
	@echo "make test    all tests but the longest: under ten minutes on two cores"
	@echo "make clients agent frameworks as their users run them, each in an environment of its own in .clients"
	@echo "make compose-test  compose.yaml on a real container engine, your own or Debian's (then as root): killed, restarted, scaled"
	@echo "             GPU=1: instead the image for GPUs, built and looked into, without a GPU (it fetches gigabytes)"
	@echo "make serve   MODEL=DIR [ENGINES=2 PORT=8000 BLOCKS=4096]: the stack on one host"
	@echo "make check   what CI runs: format, lint, types, imports, wheel, pins, compose, kernels for GPUs, all tests"
	@echo "make soak    [MINUTES=10]: random kills and stops of real processes, a million simulated steps, and other long runs"
	@echo "make docs    these pages as a site, in site/; fails on a broken link"
	@echo "make cubins  [ALL=1]: compile the GPU kernels for six architectures, without a GPU"
	@echo "make triton36  the same for three of them with Triton 3.6, in an environment of its own"
	@echo "make fmt     format, sort imports, and bring up to date what pages quote"
	@echo "make peers   environments of the peers that the benches measure, in .peers"

$(READY): pyproject.toml constraints.txt scripts/setup.sh scripts/install_torch.py
	@scripts/setup.sh $(PYTHON) $(VENV)

setup: $(READY)

demo: $(READY)
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m examples.demo $(addprefix --model=,$(MODEL))

serve: $(READY)
	@test -n "$(MODEL)" || { echo "make serve: say which model, as in: make serve MODEL=/models/qwen" >&2; exit 2; }
	@$(BIN)/quire serve --model "$(MODEL)" --engines $(ENGINES) --port $(PORT) --blocks $(BLOCKS)

test: $(READY)
	@echo "test: $(if $(LONGER),all tests; the longer ones begin within $(LONGER) minutes or are skipped,the suite)"
	@$(if $(LONGER),scripts/failed_alone.sh $(BIN)/python,$(BIN)/python -m pytest) $(SIDE_BY_SIDE) -m "not soak$(if $(LONGER),, and not slow)" $(addprefix --longer-until=,$(LONGER))

clients: $(READY)
	@$(BIN)/python scripts/client_envs.py
	@$(BIN)/python -m pytest -q tests/clients -m "not soak"

compose-test: $(READY)
	@COMPOSE_TEST=$(if $(GPU),gpu,1) $(BIN)/python -m pytest -v -p no:cacheprovider $(if $(GPU),tests/compose/test_gpu_image.py,tests/compose)

check: $(READY)
	@scripts/check.sh $(BIN)
	@$(MAKE) --no-print-directory cubins triton36
	@$(MAKE) --no-print-directory test LONGER=$(or $(LONGER),36)

soak: $(READY)
	@echo "soak: $(MINUTES) minutes of killed and stopped processes"
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m tests.chaos.run --minutes $(MINUTES)
	@echo "soak: engines lost at every place of an answer, and at random under sixteen streams"
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m tests.chaos.positions
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m tests.chaos.streams
	@echo "soak: long runs"
	@$(BIN)/python -m pytest -s -m soak --timeout 3600 $(SOAK)
	@scripts/ten_runs.sh $(BIN)

fmt: $(READY)
	@echo "fmt: formatting and sorting imports"
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .
	@echo "fmt: lines of the walk, quotes of scenarios"
	@$(BIN)/python scripts/walk.py && $(BIN)/python scripts/quote_scenarios.py

docs: $(READY)
	@echo "docs: building site/"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

peers:
	@bench/peers.sh $(PYTHON) .peers

cubins: $(READY)
	@echo "cubins: compiling kernels ahead of time"
	@ALL=$(ALL) $(BIN)/python scripts/cubins.py

triton36: $(READY)
	@echo "triton36: compiling kernels with the oldest Triton that is supported"
	@scripts/triton36.sh $(BIN) .venv-triton36
