# Every target sets up what it needs (./.venv) and works from any directory: make -C path/to/checkout demo
SHELL := /bin/bash
ROOT := $(shell cd "$$(dirname "$(strip $(MAKEFILE_LIST))")" && pwd)
IN := cd "$(ROOT)" &&
DEVICE := $(shell cd "$(ROOT)" && cut -d' ' -f1 .venv/.fem-setup 2>/dev/null || true)
DEVICE := $(if $(DEVICE),$(DEVICE),cpu)
RUN := $(IN) .venv/bin

UP := $(RUN)/python -m deployments.up $(if $(FOLDER),--folder "$(FOLDER)")

.PHONY: help setup demo s3 up down test test-fast bench check docs
help:
	@echo "make demo       run the main job on a small real model (about ten minutes on two cores)"
	@echo "make s3         start a real S3 server on this machine, to try an S3 store"
	@echo "make up         start a Prefect server, a worker, the deployments and an S3 store on this machine; make down ends them"
	@echo "make test       run all tests"
	@echo "make test-fast  run the tests that need neither a model nor a server, in under a minute"
	@echo "make bench      measure E-step, M-step and a whole run beside plain vLLM and TRL, reduced (about ten minutes)"
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

up: setup
	@$(IN) deployments/setup.sh $(DEVICE) test
	@$(UP) up $(if $(LIMIT),--limit "$(LIMIT)")

down: setup
	@$(UP) down

test: setup
	@$(IN) deployments/setup.sh $(DEVICE) test
	@$(RUN)/python -m pytest -n 2

test-fast: setup
	@$(IN) deployments/setup.sh $(DEVICE) test
	@$(RUN)/python -m pytest tests/unit -n 2 -m "not slow and not s3"

bench: setup
	@$(RUN)/python -m benchmarks.m_step --rows 32 --steps 4 --repeats 1
	@$(RUN)/python -m benchmarks.e_step --problems 48 --repeats 1
	@$(RUN)/python -m benchmarks.scaling --problems 100 400 --budgets 4
	@$(IN) rm -rf .cache/bench
	@$(RUN)/python -m benchmarks.end_to_end --schemes pps --train 48 --test 32 --iterations 1 --systems fem script --folder .cache/bench

check: setup
	@$(IN) deployments/setup.sh $(DEVICE) test
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/python -m docs.reference --check

docs: setup
	@$(RUN)/python -m docs.reference
