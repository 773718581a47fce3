# Every target works on a fresh machine: the first one that runs creates .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTS ?= tests
COVERAGE := $(if $(filter tests,$(TESTS)),--cov --cov-report=term:skip-covered --cov-fail-under=92)
DEVICE ?= cpu
LABEL_STUDIO := .venv-label-studio

.PHONY: help install demo test test-fast test-slow test-gpu bench test-label-studio chromium check format lock lock-images clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make install    create .venv from requirements.lock
install: $(INSTALLED)

$(INSTALLED): requirements.lock requirements-reference.lock pyproject.toml hatch_build.py worker/segmenter/crf/lattice.c
	@echo "installing into $(VENV): several GB, a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-reference.lock 2> $(VENV)/pydensecrf2.log \
	  || echo "pydensecrf2, which our CRF is compared with, was not built (it needs a C++ compiler and Python below 3.13)." \
	    "Tests and benchmarks beside it are left out, everything else works. What it said: $(VENV)/pydensecrf2.log"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

## make demo       start everything, label a bucket of demo images, show the results, stop; overlays in out/demo
demo: $(INSTALLED)
	$(BIN)/car demo

## make test       run the whole test suite
test: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTS) -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not label_studio" $(COVERAGE)

## make test-fast  run the unit tests: no torch, no service
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest tests/unit -n 2 --dist loadfile -m "not slow"

## make test-slow  run drills and full-size benchmarks, which take minutes
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTS) -m "slow"

## make test-gpu   run the tests that need a CUDA device: its results must equal a CPU's
test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest tests/gpu -m gpu

## make bench      run every benchmark of docs/performance.md into out/bench; DEVICE=cuda: those of the models on a GPU
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks all --device $(DEVICE) --json out/bench

## make test-label-studio  test with a real Label Studio (in .venv-label-studio), and with Chromium if available
test-label-studio: $(INSTALLED) $(LABEL_STUDIO)/.installed chromium
	$(BIN)/python -m pytest tests/label_studio -m label_studio

$(LABEL_STUDIO)/.installed: tests/label_studio/requirements.lock | $(INSTALLED)
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(LABEL_STUDIO)
	$(BIN)/uv pip install --quiet --python $(LABEL_STUDIO)/bin/python --require-hashes -r tests/label_studio/requirements.lock
	@rm -f $(LABEL_STUDIO)/empty.sqlite3
	@touch $@

chromium:
	@command -v chromium > /dev/null || apt-get install -y --no-install-recommends chromium \
	  || echo "No Chromium: tests that look at Label Studio in a browser are skipped."

## make check      check lint, types, layers and names
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/check_names.py

## make format     apply ruff's fixes and formatting
format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
EXTRAS := --extra api --extra worker --extra cli --extra embedded
IMAGE := $(COMPILE) --constraint requirements.lock

## make lock       resolve pyproject.toml into requirements.lock and the lock files of the images
lock: $(INSTALLED)
	$(COMPILE) $(EXTRAS) --group dev --upgrade pyproject.toml --output-file requirements.lock
	$(IMAGE) --extra reference pyproject.toml --output-file requirements-reference.lock
	$(MAKE) lock-images
	$(COMPILE) --upgrade tests/label_studio/requirements.in --output-file tests/label_studio/requirements.lock

## make lock-images  update only the lock files of the images, at the versions of requirements.lock
lock-images:
	$(IMAGE) --extra api --extra cli pyproject.toml --output-file deploy/requirements-api.lock
	$(IMAGE) --constraint requirements-reference.lock --extra worker --extra reference --extra cli pyproject.toml --output-file deploy/requirements-worker.lock
	$(IMAGE) --group build --output-file deploy/requirements-build.lock

clean:
	rm -rf $(VENV) $(LABEL_STUDIO) .car out
