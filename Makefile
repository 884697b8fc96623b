# `make demo` and `make test` each set up $(VENV) and run; a stamp file keeps them from installing
# twice. `make help` lists the rest.
#
# Any variable can be set on the command line:
#   PYTHON        interpreter of the environment; the pinned versions were tested on 3.11
#   TORCH         what to install as torch. Plain PyPI serves the CUDA build on Linux. For the
#                 smaller CPU build, let PIP_EXTRA_INDEX_URL point at the CPU package index that
#                 PyTorch's install page names, and set TORCH=torch==2.13.0+cpu
#   CONSTRAINTS   /dev/null takes the newest versions instead of the tested ones (Python 3.10 has to)
#   FLOORS_VENV   environment of `make test-floors`, apart from the others
#   WORKERS       number of test processes
#   DEMO_ARGS     arguments for the demo; see $(VENV)/bin/lm-eval-llada demo --help

PYTHON ?= $(shell for p in python3.11 python3; do \
    if $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; \
    then echo $$p; break; fi; done)
VENV ?= .venv
TORCH ?= torch==2.13.0
CONSTRAINTS ?= constraints.txt
WORKERS ?= auto
DEMO_ARGS ?=
FLOORS_VENV ?= .venv-floors

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

PYTHONS ?= 3.10 3.11 3.12 3.13

.PHONY: help demo figure1 ruler bench test test-slow test-gpu test-floors test-pythons lint clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo       tiny-llada with and without NTK: two tables and one picture (minutes, CPU)'
	@echo 'make figure1    perplexity and retrieval beyond the trained context (half an hour, CPU)'
	@echo 'make ruler      the papers'"'"' RULER table in miniature, diffusion against causal (CPU)'
	@echo 'make bench      speed against the plain loops: a table and benchmarks/results/speed.jsonl'
	@echo 'make test       all tests but the slow ones'
	@echo 'make test-slow  the slow tests'
	@echo 'make test-gpu   the tests that need a CUDA device'
	@echo 'make test-floors the oldest versions that pyproject.toml allows: parity tests and niah_tiny'
	@echo 'make test-pythons the tests under each of Python $(PYTHONS) that is here'
	@echo 'make lint       ruff and mypy'
	@echo 'make clean      remove $(VENV) and what tools leave behind'

demo: $(VENV)/.installed-plot
	$(BIN)/python -m lm_eval_llada demo $(DEMO_ARGS)

figure1: $(VENV)/.installed-plot
	$(BIN)/python -m benchmarks.figure1

ruler: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.ruler_miniature

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.speed --output benchmarks/results/speed.jsonl

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) -rs

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'slow and not gpu'

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu

# Some of the tested versions ask for newer ones than the floors, hence their pins without those.
test-floors: constraints.txt constraints-floors.txt
	@test -x $(FLOORS_VENV)/bin/python || $(PYTHON) -m venv $(FLOORS_VENV)
	@cut -d= -f1 constraints-floors.txt | grep -v '^#' > $(FLOORS_VENV)/names
	@grep -v -i -w -f $(FLOORS_VENV)/names constraints.txt > $(FLOORS_VENV)/constraints.txt
	@cat constraints-floors.txt >> $(FLOORS_VENV)/constraints.txt
	@$(MAKE) --no-print-directory VENV=$(FLOORS_VENV) CONSTRAINTS=$(FLOORS_VENV)/constraints.txt \
	    $(FLOORS_VENV)/.installed-floors
	$(FLOORS_VENV)/bin/python -m pytest -q tests/diffusion/test_parity.py tests/modeling \
	    tests/harness
	$(FLOORS_VENV)/bin/python -m lm_eval_llada --tasks niah_tiny --limit 4

# The tested versions are those of 3.11; other interpreters take the newest ones.
test-pythons:
	@for version in $(PYTHONS); do \
	    if python$$version -c '' 2>/dev/null; then \
	        echo "Python $$version:"; \
	        $(MAKE) --no-print-directory PYTHON=python$$version VENV=$(VENV)-$$version \
	            CONSTRAINTS=/dev/null test || exit 1; \
	    else echo "Python $$version is not here, so nothing ran under it."; fi; \
	done

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) $(FLOORS_VENV) $(addprefix $(VENV)-,$(PYTHONS)) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find lm_eval_llada tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra. Torch goes first and alone, so that TORCH decides its build.
$(VENV)/.installed-%: pyproject.toml $(filter-out /dev/null,$(CONSTRAINTS))
	@test -n '$(PYTHON)' || { echo 'No Python >= 3.10 with venv found; set PYTHON=.' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing torch and lm_eval_llada[$*] into $(VENV); the first time takes a minute or two.'
	@$(PIP) '$(TORCH)'
	@$(PIP) -e '.[$*]'
	@touch $@
