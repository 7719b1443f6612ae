# The two commands of the README, then those of development. Each sets up what it needs, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)
# Spinning thread barriers cost a factor of 2 to 5 beside any busy neighbour.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: compare test test-all check docs bench bench-quality clean

compare: $(VENV)/.installed
	$(BIN)/sae-harness compare temporal --baseline topk

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not gpu"

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/speed.py

bench-quality: $(VENV)/.installed
	$(BIN)/python benchmarks/quality_vs_peers.py

# Rebuilt when a requirement changes; pip does nothing where all is installed.
$(VENV)/.installed: pyproject.toml constraints.txt $(PLUGINS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,dev,fast,gguf,figures]"
	for plugin in $(dir $(PLUGINS)); do \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable "$$plugin" || exit 1; \
	done
	touch $@

clean:
	rm -rf $(VENV)
