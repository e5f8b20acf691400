# The two commands: `make demo` and `make test`. Both make a virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow bench torture lint docs clean

demo: $(VENV)/core.stamp
	rm -rf demo
	$(BIN)/rdunet demo --output demo

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

test-slow: $(VENV)/slow.stamp
	$(BIN)/python -m pytest -m slow

# Seconds of a prediction and a training step, with ratios to the last figures of this machine.
bench: $(VENV)/core.stamp
	$(BIN)/python -m experiments.benchmarks.bench quick

# Kills, damage and hostile input by the hundred; the table is in build/torture.
torture: $(VENV)/dev.stamp
	$(BIN)/python -m tests.torture --output build/torture

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The site in site/; a warning is an error. The variable silences an advertisement of mkdocs-material.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file .mkdocs.yml

$(VENV)/core.stamp: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/docs.stamp: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[docs]'
	touch $@

# TensorFlow for TFDS' own test case of the builder, Apache Beam for many patients, and the trackers.
$(VENV)/slow.stamp: $(VENV)/dev.stamp
	$(PIP) --editable '.[dev,tensorflow,beam,mlflow,wandb]'
	touch $@

clean:
	rm -rf $(VENV) demo site .pytest_cache .ruff_cache .hypothesis
