# Every target sets up what it needs (./.venv) and works from any directory: make -C path/to/checkout demo
SHELL := /bin/bash
ROOT := $(shell cd "$$(dirname "$(strip $(MAKEFILE_LIST))")" && pwd)
IN := cd "$(ROOT)" &&
DEVICE := $(shell cd "$(ROOT)" && cut -d' ' -f1 .venv/.fem-setup 2>/dev/null || true)
DEVICE := $(if $(DEVICE),$(DEVICE),cpu)
RUN := $(IN) .venv/bin

.PHONY: help setup demo s3 test test-fast check docs
help:
	@echo "make demo       run the main job on a small real model (about ten minutes on two cores)"
	@echo "make s3         start a real S3 server on this machine, to try an S3 store"
	@echo "make test       run all tests"
	@echo "make test-fast  run the tests that need neither a model nor a server, in under a minute"
	@echo "make check      lint, formatting, types, generated docs"
	@echo "make docs       write docs/configuration.md anew from the configuration's docstrings"
	@echo "make setup      set up ./.venv and nothing else"

setup:
	@$(IN) deployments/setup.sh $(DEVICE)

demo: setup
	@$(RUN)/fem run configs/demo.yaml

s3: setup
	@$(IN) deployments/setup.sh $(DEVICE) test
	@$(RUN)/python deployments/s3.py

test: setup
	@$(IN) deployments/setup.sh $(DEVICE) test
	@$(RUN)/python -m pytest

test-fast: setup
	@$(IN) deployments/setup.sh $(DEVICE) test
	@$(RUN)/python -m pytest tests/unit -n 2 -m "not slow and not s3"

check: setup
	@$(IN) deployments/setup.sh $(DEVICE) test
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/python -m docs.reference --check

docs: setup
	@$(RUN)/python -m docs.reference
