# Needs python3 (3.11 or 3.12), pip and make; everything else is put into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

READY := $(VENV)/.ready
CLIENTS := $(VENV)/clients/.ready
STUBS := contracts/gen/modelyard/descriptors.binpb
PROTOS := $(shell find contracts/modelyard contracts/inference -name '*.proto')

# What is checked for types; strict everywhere.
TYPED := bench client contracts experiment_svc feature_svc gateway monitor_svc registry_svc \
	service_kit serving_svc training_svc

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench check lint types imports torch gpu clients proto openapi clean

help: ## say what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY) $(STUBS) ## put everything into .venv

demo: setup ## walk the closed loop on a year of real flights
	$(BIN)/python -m examples.flights

test: check clients ## check the code, then run all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not ray and not e2e"
	$(BIN)/python -m pytest -m "ray or e2e"

check: lint types imports ## lint, formatting, types, import rules

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy $(TYPED)

imports: setup
	$(BIN)/lint-imports --no-cache

torch: setup ## add PyTorch, for the tests and trainers that want it
	$(BIN)/python -m pip install --quiet torch==2.13.0

gpu: setup ## ONNX Runtime with CUDA in the place of the one without
	$(BIN)/python -m pip uninstall --quiet --yes onnxruntime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		"onnxruntime-gpu[cuda,cudnn]==$$(sed -n 's/^onnxruntime==//p' constraints.txt)"

clients: $(CLIENTS) ## make the environment of tritonclient and KServe's client, for the tests

proto: setup ## generate the stubs of the contracts
	$(BIN)/python -m contracts.generate

bench: setup ## measure online inference beside its peers (needs wrk and nghttp2-client)
	$(BIN)/python -m bench.serving

openapi: setup ## write contracts/openapi.json anew
	$(BIN)/python -m gateway.openapi > contracts/openapi.json.new
	mv contracts/openapi.json.new contracts/openapi.json

clean: ## remove what was made here, the environment too
	rm -rf $(VENV) contracts/gen build dist .bench .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt contracts/build_hook.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
		|| { echo "Python 3.11 or 3.12 is needed: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		-c constraints.txt -e '.[all,demo,dev]'
	touch $@

# What these clients need does not fit what the suite needs.
$(CLIENTS): $(READY) tests/gateway/clients/requirements.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/clients
	$(BIN)/uv pip install --quiet --python $(VENV)/clients/bin/python --compile-bytecode \
		--no-deps -r tests/gateway/clients/requirements.txt
	touch $@

$(STUBS): $(READY) $(PROTOS) contracts/generate.py
	$(BIN)/python -m contracts.generate
