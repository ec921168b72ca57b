# Needs Python 3.10 or newer. Everything is installed into .venv. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := .venv-demo
DEMO_STAMP := $(DEMO)/.installed
# Test processes: auto is one for each core, at most eight; 0 runs the tests in pytest's own process.
WORKERS ?= auto
# More options of pytest for `make test`, such as -x.
OPTIONS ?=

.PHONY: help install install-demo quickstart test test-demo test-slow test-package coverage docs lint format clean

help:
	@echo 'make install     create .venv and install clipdense with everything the tests need'
	@echo 'make quickstart  segment photographs, then pre-train a small CLIP on generated images and segment with it'
	@echo 'make test        run all tests except the slow ones; WORKERS=0 uses one process'
	@echo 'make test-demo   run the tests of the web page, in Chromium if it is installed'
	@echo 'make test-slow   run the slow tests, most of which train a model'
	@echo 'make test-package  install the wheel in an empty environment and try it'
	@echo 'make coverage    run the tests of make test and print the lines that no test runs'
	@echo 'make docs        write the documentation as a site to build/site'
	@echo 'make lint        check style and types'
	@echo 'make format      fix style where that can be done automatically'
	@echo 'make clean       delete .venv and all caches'

install: $(STAMP)

$(STAMP): setup.py
	$(PYTHON) -c 'import sys; sys.exit("clipdense needs Python 3.10 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[test,embedded,export]"
	touch $(STAMP)

# gradio requires an older Pillow than the other tests have: an environment of its own, which shares the rest.
install-demo: $(DEMO_STAMP)

$(DEMO_STAMP): $(STAMP)
	$(PYTHON) -m venv $(DEMO)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(DEMO)/bin/python -c 'import site; print(site.getsitepackages()[0])')/shared.pth"
	$(DEMO)/bin/python -m pip install --quiet -e ".[demo,browser]"
	touch $(DEMO_STAMP)

quickstart: install
	$(BIN)/clipdense quickstart

test: install
	$(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --maxprocesses 8 $(OPTIONS)

test-demo: install-demo
	$(DEMO)/bin/python -m pytest -q -rs tests/demo tests/cli/test_demo.py

test-slow: install
	$(BIN)/python -m pytest -m slow

test-package: install
	$(BIN)/python -m pytest -q tests/test_packaging.py

coverage: install
	$(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --maxprocesses 8 --cov=clipdense --cov-report=term:skip-covered

docs: install
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
