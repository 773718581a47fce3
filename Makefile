# Everything here works on a fresh machine: the first target that is run makes .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTS ?= tests

.PHONY: help install demo test test-slow check format lock lock-images clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make install    the environment in .venv, from requirements.lock
install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

## make demo       start everything, label a bucket of demo pictures, show the results, stop; overlays in out/demo
demo: $(INSTALLED)
	$(BIN)/car demo

## make test       the whole test suite
test: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTS) -n 2 --dist worksteal -m "not slow and not gpu"

## make test-slow  drills and full-size benchmarks that take minutes
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTS) -m "slow"

## make check      lint, types and layers
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

## make format     rewrite the code as `make check` wants it
format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
IMAGE := $(COMPILE) --constraint requirements.lock

## make lock       resolve pyproject.toml into requirements.lock anew, and what each image installs out of it
lock: $(INSTALLED)
	$(COMPILE) --all-extras --group dev --upgrade pyproject.toml --output-file requirements.lock
	$(MAKE) lock-images

## make lock-images  only what each image installs, at the versions of requirements.lock
lock-images:
	$(IMAGE) --extra api --extra cli pyproject.toml --output-file deploy/requirements-api.lock
	$(IMAGE) --extra worker --extra cli pyproject.toml --output-file deploy/requirements-worker.lock
	$(IMAGE) --group build --output-file deploy/requirements-build.lock

clean:
	rm -rf $(VENV) .car out
