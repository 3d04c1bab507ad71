# Needs python3 (3.11 or newer) and mvn (with a java that it runs on); everything else comes from package registries.
PYTHON ?= python3
PYTEST_ARGS ?=
# Where Python may not keep bytecode, every start of a worker compiles for a second.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv constraints test lint format types pytest unit servers services bench demo docs wheel image clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv with the project and its tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
# The second way is for machines whose mirror is configured for pip only.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[all,dev]' || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --constraint constraints.txt chdb-core || \
	  $(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt chdb-core
	@touch $@

# A marker that says no more than "Linux or macOS" is noise in a list for Linux and macOS.
constraints: ## resolve constraints.txt anew
	uv pip compile pyproject.toml --extra all --extra dev --group clickhouse-server --universal --upgrade --quiet \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints.txt
	sed -i.bak "s/ ; (python_full_version < '3.15' and sys_platform == 'darwin') or (python_full_version < '3.15' and sys_platform == 'linux')$$//" constraints.txt
	rm constraints.txt.bak

test: lint types pytest ## check style and types, run all tests (starts the servers they need)

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## repair style and formatting where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## check types
	$(BIN)/mypy --strict airflow_provider_connect

pytest: $(STAMP) ## run all tests; PYTEST_ARGS='-k name' chooses some
	$(BIN)/python -m pytest $(PYTEST_ARGS)

unit: $(STAMP) ## run the tests that need no server
	$(BIN)/python -m pytest -m 'not integration and not e2e and not crash' $(PYTEST_ARGS)

servers: $(STAMP) ## download the servers that the tests start, if they are not in the cache
	$(BIN)/python -m tests.services download

services: $(STAMP) ## start Kafka, PostgreSQL and ClickHouse for development, until ^C
	$(BIN)/python -m tests.services up

bench: $(STAMP) ## measure throughput
	$(BIN)/python -m tests.benchmarks

demo: $(STAMP) ## run the demonstration
	$(BIN)/python -m demo

docs: $(STAMP) ## generate the reference pages
	$(BIN)/python -m airflow_provider_connect.docsgen

wheel: $(STAMP) ## build the wheel and the source archive into dist/
	$(BIN)/python -m build

image: ## build the image of a worker (needs docker)
	docker build --file docker/Dockerfile --tag airflow-provider-connect .

clean: ## remove everything that was made here, but not the cache of server downloads
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
