# The ways into the project. `make demo` and `make test` need only Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo dev test test-fast bench lint types audit licenses sbom lock clean

help: ## Show what can be made
	@sed -nE 's/^([a-z-]+):.* ## (.*)/make \1\t\2/p' Makefile | expand -t 16

install: .venv/installed ## Make .venv with the pinned dependencies, each as its hash says

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 install" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@# Setuptools warns of every editable installation that it is one.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## Compute the account types of a sample CRM
	$(BIN)/leora demo

dev: install ## Open the Dagster UI on the sample CRM, or on the one in .env
	$(BIN)/leora dev

# Many tests wait for a server, so that more workers than cores pay off. Those that take longest are
# collected first, and start first.
test: install ## Run all tests, side by side
	$(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder

test-fast: install ## Run the unit tests alone
	$(BIN)/python -m pytest leora_pipeline_tests/unit

bench: install ## Measure what the docs claim about speed and memory (half an hour)
	$(BIN)/python benchmarks/full_run.py
	$(BIN)/python benchmarks/changes.py
	$(BIN)/python benchmarks/real_time.py

lint: install ## Check style, format, who imports whom, and the migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/squawk --config .squawk.toml leora_pipeline/migrations/versions/*.sql

types: install ## Check types
	$(BIN)/mypy

# Strict: a package that the database cannot be asked about is an error, and not a package without
# known vulnerabilities.
audit: install ## Look the pinned dependencies up in PyPI's database of vulnerabilities
	$(BIN)/pip-audit --strict --disable-pip --requirement requirements.txt

licenses: install ## List the licenses of what is installed
	$(BIN)/pip-licenses

# What an installation consists of, as it is installed here, without the tools of development.
sbom: install ## Write dist/sbom.json: what the wheel installs, in CycloneDX's format
	rm -rf dist
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python
	$(UV_LOCK) --constraint requirements.txt --output-file dist/requirements.txt pyproject.toml
	$(BIN)/uv venv --quiet --python $(BIN)/python dist/environment
	$(BIN)/uv pip install --quiet --python dist/environment --require-hashes -r dist/requirements.txt
	$(BIN)/uv pip install --quiet --python dist/environment --no-deps --no-index --find-links dist leora-pipeline
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/sbom.json dist/environment

UV_LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links

lock: install ## Regenerate requirements.txt from pyproject.toml
	$(UV_LOCK) --upgrade --extra dev --output-file requirements.txt pyproject.toml

clean: ## Remove what the other targets made
	rm -rf .venv .leora dist
