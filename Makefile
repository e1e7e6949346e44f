# The environment is `.venv`, from the exact versions in constraints.txt. A stamp beside each set of packages keeps a
# second `make` from asking pip again.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check .venv clean

demo: .venv/.installed
	$(BIN)/namesake demo

test: .venv/.installed-test
	$(BIN)/python -m pytest

check: .venv/.installed-dev test
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv: .venv/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "namesake needs Python 3.11 or newer; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

.venv/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	@touch .venv/.installed $@

.venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch .venv/.installed .venv/.installed-test $@

clean:
	rm -rf .venv out build
