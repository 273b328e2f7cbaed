# `make demo` and `make test` set everything up on a fresh machine. `make demo PYTHON=python` uses an environment that
# already has the dependencies.
VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
READY := $(if $(filter $(VENV)/bin/python,$(PYTHON)),$(VENV)/.ready)

.PHONY: demo test check docs clean
demo: $(READY)
	$(PYTHON) examples/demo.py demo

test: check
	$(PYTHON) -m pytest

check: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

$(VENV)/.ready: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist
