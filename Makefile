# make setup | run [ONCE=1] [SAMPLE=path] | test [JOBS=2] | check | bench | docs | lock | sbom
PYTHON := .venv/bin/python
JOBS ?= 2

.PHONY: help setup run test check bench docs lock sbom

help:
	@echo "make setup   system packages, .venv, the project in it"
	@echo "make run     the demo: a PACS, medpipe, a study on its way through (ONCE=1, SAMPLE=path)"
	@echo "make test    set-up, checks and all tests (JOBS=2: so many side by side)"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make bench   the benchmarks, as one Markdown table"
	@echo "make docs    write docs/commands.md and docs/conformance.md from the code"
	@echo "make lock    write constraints.txt from what is installed"
	@echo "make sbom    the bill of materials (CycloneDX) and the licences, in build/"

setup:
	@deploy/setup.sh

run: setup
	@$(PYTHON) deploy/demo.py $(if $(ONCE),--once) $(if $(SAMPLE),--sample "$(SAMPLE)")

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: check
	.venv/bin/pytest -n $(JOBS) --dist worksteal

bench: setup
	@$(PYTHON) bench/all.py

docs: setup
	@$(PYTHON) -m medpipe.cli.reference docs/commands.md
	@$(PYTHON) -m medpipe.cli.conformance docs/conformance.md

lock: setup
	@$(PYTHON) deploy/lock.py

sbom: setup
	@mkdir -p build
	@$(PYTHON) deploy/sbom.py build/sbom.cdx.json
	@$(PYTHON) deploy/sbom.py --licences > build/licences.md
