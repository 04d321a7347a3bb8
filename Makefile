# `make demo` and `make test` are all a fresh machine needs: each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-slow attack check format bench docs results clean

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,export,server]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/openset demo

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

attack: $(INSTALLED)
	$(BIN)/python -m tests.attack

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python docs/figures.py

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python speed

$(BIN)/mkdocs: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: $(BIN)/mkdocs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

results: $(INSTALLED)
	$(BIN)/python -m openset.reporting.markdown docs/results

clean:
	rm -rf .venv demo site .pytest_cache .ruff_cache .hypothesis .coverage build *.egg-info
