# The commands of this project. The environment lives in .venv and is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUTPUT ?= medinterp-demo

.PHONY: demo test check bench fuzz train sample-data clients clean

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

# Thousands of damaged headers for every reader; with the extra "fuzz" the damage follows the readers' code.
fuzz: $(READY)
	$(BIN)/python -m benchmarks.fuzz $(ARGS)

train: $(READY)
	$(BIN)/python -m medinterp.training $(ARGS)

sample-data: $(READY)
	$(BIN)/python sample_data/make_sample_data.py

# Viewers and readers that only the tests in tests/clients need, and that are no packages of the environment itself.
clients: $(READY)
	for version in 0.3.0 0.4.0; do \
	    $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/clients/dcmqi-$$version dcmqi==$$version || exit 1; \
	done
	npm install --silent --no-save --no-package-lock gltf-validator@2.0.0-dev.3.10 @niivue/niivue@0.69.0

# torch first and pinned: a plain "pip install torch" can pull gigabytes of GPU packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,bench,slicer-test]"
	touch $@

clean:
	rm -rf $(VENV)
