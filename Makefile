# make setup | demo | test | trust | bench | docs | wheel | lint | clean.  Choose the interpreter with PYTHON=python3.12.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# cmake, ninja and clang-format come pinned from the venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

SOURCES := setup.py pyproject.toml fbconv/_version.py $(shell find csrc -type f)

.PHONY: setup demo test trust bench docs wheel lint clean
.DELETE_ON_ERROR:

setup: $(VENV)/.built

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fbconv needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/python -m fbconv reproduce digits --out runs/demo

test: setup
	cmake --workflow --preset release
	cmake --workflow --preset memory
	cmake --workflow --preset thread
	$(BIN)/python -m pytest

# The long form of tests/trust, with sanitizers, valgrind and fuzzers where they are there.
trust: setup
	$(BIN)/python tests/trust/native.py --report build/trust/native.json
	FBCONV_TRUST=full $(BIN)/python -m pytest tests/trust --numprocesses 2 --dist worksteal \
	  --durations 12 --trust-report build/trust/python.json

bench: setup
	$(BIN)/python -m pytest bench --benchmark-only

# mkdocs imports fbconv for the help texts of its commands.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(VENV)/.installed
	$(BIN)/python -m build --no-isolation

lint: $(VENV)/.installed
	ruff check .
	ruff format --check .
	find csrc tests/native -type f -regex '.*\.\(cpp\|h\|inl\|cu\|cuh\)' | xargs clang-format --dry-run --Werror

clean:
	rm -rf build dist fbconv.egg-info fbconv/_C*.so $(VENV)/.built .pytest_cache .ruff_cache .hypothesis
	find fbconv tests bench -name __pycache__ -prune -exec rm -rf {} +
