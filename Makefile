# `make demo` and `make test` do all the set-up themselves: a virtual environment in .venv, then run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/digits
TESTS ?= tests

.PHONY: demo test test-parity parity docs lint clean

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable

# The environment is made anew when the package's metadata changes; each command adds what it needs.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed')"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) ".[dev]"
	touch $@

$(VENV)/installed-torch: $(VENV)/installed-dev
	$(INSTALL) ".[dev,torch]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(INSTALL) ".[docs]"
	touch $@

demo: $(VENV)/installed
	@$(BIN)/vdu run --config=configs/digits.py --workdir=$(WORKDIR)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(TESTS)

test-parity: $(VENV)/installed-torch
	$(BIN)/python -m pytest -m torch tests

# Writes docs/parity.md, and exports the demo's models for it.
parity: $(VENV)/installed-torch demo
	$(BIN)/python tests/parity/report.py --config=configs/digits.py --workdir=$(WORKDIR)

# Writes docs/reference/ from the code, and the site into site/.
docs: $(VENV)/installed-docs
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build site *.egg-info
