# Fresh machine: `make demo` or `make test`. Both create .venv and install into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test newest lint table clean

demo: $(VENV)/installed
	$(BIN)/uda demo --workdir runs/demo

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The core of the tests with the newest JAX, where there is a Python for it.
newest:
	.ci/newest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Every row of every seed of docs/results.md; run it again to go on where it stopped.
table: $(VENV)/installed
	$(BIN)/python -m benchmarks.adaptation streets
	$(BIN)/python -m benchmarks.adaptation camvid_day2dusk
	$(BIN)/python -m benchmarks.adaptation digits
	$(BIN)/python -m benchmarks.adaptation blobs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) $(VENV)-newest runs build dist
