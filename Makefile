# Two commands that need nothing but Python 3.10 to 3.12 and a package registry:
#
#   make demo                a model from spec to served and measured, in a folder of its own (.demo)
#   make test                the whole suite, against the real tritonserver and the real perf_analyzer
#
# And for those who work on it:
#
#   make check               lint and types
#   make model_repository    build the committed example anew
#   make docs                make the pages anew that programs make
#   make docker-test         build the images of docker/ with buildah and serve with one of them (minutes, root)
#   make picture             measure a study, and take the picture of its report (minutes, on a quiet machine)
#   make fuzz                try 100,000 inputs on the loader and the importer (half an hour)
#   make benchmarks          measure the tables of the README here
#   make clean               remove the environment and everything built in it

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first interpreter that runs and that Triton's Python stub has a build for.
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$python && break; \
	done)
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
DEMO := .demo
PICTURE := .picture
CONCURRENCY ?= 1,4
# What the tests export with. The registry's own build carries CUDA: for the smaller one of the CPU, give a requirement
# or options that name it, as in TORCH='torch==2.13.0 --index-url ...'.
TORCH ?= torch==2.13.0
# Tests at the same time. Half of a test's time is waiting for a server: one more than there are cores.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))

.PHONY: help demo test check model_repository docs docker-test picture fuzz benchmarks clean

help:
	@sed -n 's/^#   \(make .*\)/\1/p' Makefile

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'make: Python 3.10, 3.11 or 3.12 is needed (apt-get install python3 python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Each marker stands for one set of extras, installed since pyproject.toml last changed.
$(VENV)/.demo: extras = server,cpu
$(VENV)/.dev: extras = dev
$(VENV)/.demo $(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(if $(findstring dev,$(extras)),$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(extras)]'
	$(BIN)/tritonkit doctor --install
	@touch $@

demo: $(VENV)/.demo
	@if [ -d $(DEMO)/.tritonkit ]; then (cd $(DEMO) && $(BIN)/tritonkit down); fi
	@rm -rf $(DEMO)
	@export PATH="$(BIN):$$PATH"; \
	run() { printf '\n\033[1m$$ %s\033[0m\n' "$$*"; "$$@"; }; \
	run tritonkit init digits --output $(DEMO); \
	cd $(DEMO); trap 'run tritonkit down' EXIT; \
	run tritonkit build-repo spec.yaml; \
	run tritonkit up --detach; \
	run tritonkit infer classify --input IMAGE=@samples/7.png --classes 3; \
	run python evaluate.py; \
	run tritonkit bench classify digits --concurrency $(CONCURRENCY)

# Some tests run programs of the system (HAProxy, for one): they are installed where that needs no password.
# Those that nothing may run beside (-m alone) come after the others.
test: $(VENV)/.dev
	$(BIN)/python tests/system_packages.py
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
	$(BIN)/python -m pytest -m alone

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

model_repository: $(VENV)/.dev
	$(BIN)/tritonkit build-repo templates/starters/digits/spec.yaml --output model_repository

docs: $(VENV)/.dev
	$(BIN)/tritonkit schema > docs/spec.schema.json
	$(BIN)/python tests/coverage_table.py > docs/modelconfig.md
	$(BIN)/python tests/checks_tables.py rules > docs/checks.md
	$(BIN)/python tests/checks_tables.py ensembles > docs/ensembles.md

docker-test: $(VENV)/.dev
	$(BIN)/python tests/system_packages.py
	$(BIN)/python -m pytest -m docker

picture: $(VENV)/.dev
	rm -rf $(PICTURE)
	$(BIN)/tritonkit bench benchmarks/digits_instances.yaml --output $(PICTURE)
	$(BIN)/python tests/browser.py $(PICTURE) docs/images/report.png

fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest -m fuzz

benchmarks: $(VENV)/.dev
	$(BIN)/python benchmarks/build_repo.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/check_speed.py
	$(BIN)/python benchmarks/check_oracle.py
	$(BIN)/python benchmarks/gateway.py
	$(BIN)/python benchmarks/compare_power.py

clean:
	rm -rf $(VENV) $(DEMO) $(PICTURE) .mypy_cache .pytest_cache .ruff_cache build dist
