# Everything a stranger types. `make demo` and `make test` need Python 3.11+, make and git, and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: check-axolotl demo test lint bench bench-train bench-score bench-quality bench-methods bench-tasks reliability drill soak model clean help
.DEFAULT_GOAL := help

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and pinned: a looser range may bring gigabytes of CUDA packages
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev]'
	touch $@

model: $(STAMP)  ## bring the base model in (once)
	$(BIN)/python -m adapters.base_model

demo: model  ## the whole loop on a real model
	$(BIN)/tuneloop demo $(DEMO)

lint: $(STAMP)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint model  ## lint, then all tests but the reliability trials
	$(BIN)/pytest -n 2 --dist loadscope -m "not real"
	$(BIN)/pytest -m real

reliability: model  ## kills, crash images, full disks, clocks: every trial, with its figures
	$(BIN)/python -P ops/reliability.py --scale $(or $(SCALE),full) $(if $(SCALE),,--write docs/reliability.md)

drill: model  ## every entry of the runbook: provoked, told, cured (a Prometheus on the PATH; root for the disk's)
	$(BIN)/python ops/drill

soak: model  ## the same trials for hours
	$(BIN)/python -P ops/reliability.py --scale soak

bench: model  ## ratios against named peers, measured in the same run
	$(BIN)/python -P ops/bench/store.py
	$(BIN)/python -P ops/bench/tick.py
	$(BIN)/python -P ops/bench/trackers.py
	$(BIN)/python -P ops/bench/idle.py
	$(BIN)/python -P ops/bench/duplicates.py

bench-train: model  ## training speed beside plain TRL and its best settings
	$(BIN)/python -P ops/bench/training.py

bench-score: model  ## label scores beside generate() and llama.cpp
	$(BIN)/python -P ops/bench/scoring.py

bench-quality: model  ## accuracy by examples per class: prompts, adapters, the control
	$(BIN)/python -P ops/bench/quality.py

bench-methods: model  ## what preferences and rewards add to an adapter that already answers
	$(BIN)/python -P ops/bench/methods.py

bench-tasks: model  ## what an adapter adds where answers are free words: JSON by field, a fixed style by chrF
	$(BIN)/python -P ops/bench/free_form.py --kind extraction
	$(BIN)/python -P ops/bench/free_form.py --kind style

AXOLOTL := .venv-axolotl

check-axolotl: $(STAMP)  ## the configuration we write for axolotl, against axolotl's own schema
	$(PYTHON) -m venv $(AXOLOTL)
	# the schema alone: the rest of what axolotl wants needs a GPU, and is taken from our environment where it is there
	$(AXOLOTL)/bin/pip install --quiet --disable-pip-version-check --no-deps axolotl==0.19.0 axolotl-contribs-mit==0.0.6 \
	    axolotl-contribs-lgpl==0.0.7 addict colorama einops pillow python-dotenv torchao==0.17.0
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" \
	    > $$($(AXOLOTL)/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/house.pth
	TUNELOOP_AXOLOTL_PYTHON=$(CURDIR)/$(AXOLOTL)/bin/python $(BIN)/pytest tests/test_backends.py -k schema

clean:  ## remove what was built; workspaces and models stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
