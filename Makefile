# `make demo` and `make test` set everything up on a fresh machine. `make demo PYTHON=python` uses an environment that
# already has the dependencies.
VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
READY := $(if $(filter $(VENV)/bin/python,$(PYTHON)),$(VENV)/.ready)

.PHONY: demo test check docs lock audit clean
demo: $(READY)
	$(PYTHON) examples/demo.py demo

# Tests compute with one thread each; as many run at once as there are cores.
test: check
	$(PYTHON) -m pytest --numprocesses auto --dist worksteal --durations 25

check: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

# First what locked.txt holds, checked by hash, then torch and the package itself.
$(VENV)/.ready: pyproject.toml constraints.txt locked.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement locked.txt
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[test]'
	touch $@

# After a change of constraints.txt. torch is left out: each index has wheels of its own under the same version.
lock:
	uvx --from uv==0.13.9 uv pip compile --no-deps --generate-hashes --universal --no-annotate --no-header \
		--no-emit-package torch --output-file locked.txt constraints.txt

# Are there known vulnerabilities in what is pinned, torch too? Asks PyPI; what it does not answer for is an error.
audit:
	uvx pip-audit==2.10.1 --requirement constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf $(VENV) demo build dist
