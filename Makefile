# The commands of this project. The environment lives in .venv and is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUTPUT ?= medinterp-demo

.PHONY: demo test check bench train sample-data clean

demo: $(READY)
	$(BIN)/medinterp demo --output $(OUTPUT) --overwrite

test: $(READY)
	$(BIN)/python -m pytest --jaxtyping-packages=medinterp,beartype.beartype

check: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks

train: $(READY)
	$(BIN)/python -m medinterp.training $(ARGS)

sample-data: $(READY)
	$(BIN)/python sample_data/make_sample_data.py

# torch first and pinned: a plain "pip install torch" can pull gigabytes of GPU packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,bench,slicer-test]"
	touch $@

clean:
	rm -rf $(VENV)
