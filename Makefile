# Every task of the project. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BOOT := $(CURDIR)/.boot
# uv: the one on PATH, else one of our own in .boot (a private virtual environment).
# Compiled once here, so that no start of the server or a supervisor compiles again.
export UV_COMPILE_BYTECODE := 1
UV := $(shell command -v uv || echo $(BOOT)/bin/uv)
RUN := $(UV) run --frozen
NAME ?= job_start

.PHONY: help setup system-deps quickstart test test-fast lint types imports format bench docs compatibility clean

help: ## List the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 16

$(BOOT)/bin/uv:
	@python3 -m venv $(BOOT) && $(BOOT)/bin/pip install --quiet uv

setup: $(if $(filter $(BOOT)/%,$(UV)),$(BOOT)/bin/uv) ## Install uv (when missing) and everything the project needs
	@$(UV) sync --frozen --quiet

system-deps: ## Install the optional system tools with apt: sandbox, network, browser, MPI
	@./.ci/system-deps

quickstart: setup ## Start Clary, train a CNN on real images through the SageMaker SDK, show the result
	@$(RUN) clary quickstart

test: setup lint types imports ## Everything: what CI runs
	@$(RUN) pytest

test-fast: setup ## The everyday tests, under five minutes
	@$(RUN) pytest -m "not slow"

lint: setup ## ruff: style and mistakes
	@$(RUN) ruff check . && $(RUN) ruff format --check .

types: setup ## pyright, strict
	@$(RUN) pyright

imports: setup ## The boundaries between rooms
	@$(RUN) lint-imports

format: setup ## Let ruff format and mend what it can
	@$(RUN) ruff check --fix . ; $(RUN) ruff format .

bench: setup ## Run one benchmark beside its peers: make bench NAME=job_start
	@$(RUN) python benchmarks/$(NAME).py

docs: setup ## Build the documentation into site/
	@$(UV) sync --frozen --quiet --group docs && $(RUN) --group docs mkdocs build --strict

compatibility: setup ## Write docs/reference/compatibility.md from the code
	@$(RUN) python -m clary.services.compatibility docs/reference/compatibility.md

clean: ## Remove what the tasks made inside this folder
	@rm -rf .venv $(BOOT) site .pytest_cache .ruff_cache
