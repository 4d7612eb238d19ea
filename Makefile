# Fresh machine: `make demo` or `make test`. Both create .venv and install into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test newest lint docs table bench clean

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

# The pages of docs/ as a site in site/, which opens from the folder; a link or an anchor that leads nowhere ends it
# (not with --quiet, which drops the warnings that --strict counts).
docs: $(VENV)/installed-docs
	$(BIN)/python -m mkdocs build --strict
	@echo "docs: site/index.html"

# Every row of every seed of docs/results.md; run it again to go on where it stopped.
table: $(VENV)/installed
	$(BIN)/python -m benchmarks.adaptation streets
	$(BIN)/python -m benchmarks.adaptation camvid_day2dusk
	$(BIN)/python -m benchmarks.adaptation digits
	$(BIN)/python -m benchmarks.adaptation blobs

# A training step of every method beside the same one in PyTorch, and what starting takes: more than an hour of all
# cores. Run it again to go on where it stopped; rows that are there are not measured again.
bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.train_step --output runs/bench/train_step.json
	$(BIN)/python -m benchmarks.startup --output runs/bench/startup.json
	@$(BIN)/python -m benchmarks.step_tables runs/bench/train_step.json runs/bench/startup.json

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) $(VENV)-newest runs build dist site
