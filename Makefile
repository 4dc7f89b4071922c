# Every target does its own set-up: a machine needs Python 3.11 or newer, pip and make, and nothing else.
# An environment that is ready is used again, so a second call costs a second.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
# The CUDA build of fbgemm-gpu does not even import without a GPU's driver, and the CPU build must not stand beside it.
TARGET := $(if $(shell nvidia-smi --list-gpus 2>/dev/null),cuda,cpu)
READY := .venv/ready-$(TARGET)
LOCK := requirements/$(TARGET).lock.txt
SHIM := $(if $(filter cpu,$(TARGET)),./requirements/fbgemm_gpu_shim)

# Of `make schedule`: the run's overrides, the first day with a partition, when a day starts (UTC), and where to serve.
DAILY ?=
FIRST ?=
CRON ?= 0 3 * * *
PORT ?= 3000
DAGSTER ?= runs/dagster

.PHONY: help setup demo test ui schedule lint lock bench gpu

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

setup: $(READY) ## make .venv from the lock file of this machine's kind

demo: $(READY) ## simulate, prepare, pre-train, ablate, compare: the whole method in minutes
	@$(BIN)/recsys demo

# Three processes on two cores, as many tests wait for others. Compiled files are written whatever the shell says: else
# each of some twenty processes compiles the library again.
test: $(READY) ## run every test
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3

ui: $(READY) ## serve MLflow on loopback over the recorded runs, and print the address
	@$(BIN)/recsys ui

schedule: $(READY) ## serve Dagster on loopback with the nightly run: make schedule DAILY="data=online_retail data.raw=..."
	@export DAGSTER_HOME="$(abspath $(DAGSTER))" RECSYS_DAILY='$(DAILY)' RECSYS_DAILY_FIRST='$(FIRST)' RECSYS_DAILY_CRON='$(CRON)'
	mkdir -p "$$DAGSTER_HOME"
	cp pipelines/dagster.yaml "$$DAGSTER_HOME/dagster.yaml"
	exec $(BIN)/dagster dev --host 127.0.0.1 --port $(PORT) --module-name pipelines.schedule

lint: $(READY) ## ruff and mypy over everything
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## speed, as ratios to a limit and to other libraries
	@for benchmark in streaming reading preparation train_step gradients tracking; do
		echo "$$benchmark"
		$(BIN)/python tests/benchmarks/$$benchmark.py
	done

# No set-up: it must work on a machine without a network, by the interpreter at hand, as `make gpu PYTHON=python3`.
gpu: ## the tests that need a GPU, and a benchmark of it, in 8 minutes
	@python=$(PYTHON)
	if [ "$(origin PYTHON)" = file ] && [ -x $(BIN)/python ]; then python=$(BIN)/python; fi
	$$python -c 'import sys, importlib.util; sys.exit(importlib.util.find_spec("torch") is None)' || {
		echo "$$python has no torch. Name an interpreter that can: make gpu PYTHON=python3" >&2
		exit 2
	}
	$$python tests/benchmarks/on_gpu.py

lock: ## resolve the versions again and write both lock files
	@$(PYTHON) requirements/lock.py

# torch goes in first and by its exact version: asked for by torchrec alone, pip may take another build of it.
# The stamp is written last, so an interrupted set-up starts again from an empty folder; a changed lock only adds to it.
$(READY): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	if [ ! -e $@ ]; then $(PYTHON) -m venv --clear .venv; fi
	install="$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile"
	echo "Setting up .venv from $(LOCK); this takes minutes, once. 1/3: torch"
	$$install "$$(grep '^torch==' $(LOCK))"
	if [ -n "$(SHIM)" ]; then $$install --constraint $(LOCK) $(SHIM); fi
	echo "2/3: the other $$(grep -c == $(LOCK)) packages"
	$$install --requirement $(LOCK)
	echo "3/3: recsys itself"
	$$install --no-deps --editable .
	$(BIN)/python -m pip check
	touch $@
