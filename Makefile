# make demo   train a VAE on real digits, estimate its log evidence, draw the pictures
# make test   lint, types, import contracts and the fast tests
# make test-slow, make test-exhaustive, make bench, make clean
#
# Each sets up its own virtual environment with pinned versions; a second call finds it ready.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test lint types contracts pytest test-slow test-exhaustive bench clean

demo: $(READY)
	$(BIN)/ppl-vae demo --out runs/demo

test: lint types contracts pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

# One torch thread a worker: the tests are many small jobs, and threads would only wait for one another. A worker takes
# the tests of a file in a row, which share what the file makes for them.
pytest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -q --durations=10

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow and not exhaustive" -n auto --dist worksteal -q --durations=10

# Every case of tests/cases with every estimator, every combination of parts: hours.
test-exhaustive: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m exhaustive -n auto --dist worksteal -q

# Sets up .venv-jax for the JAX contestants by itself; without it their columns say so.
bench: $(READY)
	$(BIN)/python -m benchmarks

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-jax build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
