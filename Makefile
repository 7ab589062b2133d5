# `make demo` and `make test` do all the set-up that they need: .venv, the pinned packages, the C++ library.
# Paths are relative throughout: make splits words at spaces, and the checkout may lie under a folder with one.
#   PYTHON=...  the interpreter that .venv is made from (3.11 or newer)     CXX=...  the C++ compiler
#   TESTS=...   what `make test` hands to pytest, e.g. TESTS='tests/scene4d -k doctor'

PY := .venv/bin/python
TESTS ?=

ifndef SCENE4D_TEST_DATA
  SCENE4D_TEST_DATA := $(shell cd ../shared/data 2>/dev/null && pwd)
  ifneq ($(SCENE4D_TEST_DATA),)
    export SCENE4D_TEST_DATA
  endif
endif
.DEFAULT_GOAL := help
.PHONY: demo test check setup library clean help

help:
	@echo 'make demo    fit a small dynamic scene and film it, to demo/'
	@echo 'make test    run the tests'
	@echo 'make check   ruff, ruff format, pyright'
	@echo 'make setup   only the set-up: .venv, packages, C++ library'
	@echo 'make clean   remove everything that the above have made'

demo: setup
	@$(PY) scripts/demo.py

test: setup
	@$(PY) -m pytest $(TESTS)

check: .venv/installed-check
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m pyright --pythonpath $(PY)

setup: library

library: .venv/installed-test
	@$(PY) -P renderers/build.py >/dev/null  # does nothing where the sources have not changed

.venv/installed-check: .venv/installed-test  # pyright looks into the packages that the tests use

.venv/installed-%: pyproject.toml constraints.txt scripts/setup.sh
	@echo 'Setting up .venv for make $* (takes minutes the first time) ...'
	@scripts/setup.sh $*
	@touch $@

clean:
	rm -rf .venv demo build *.egg-info renderers/_lib .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
