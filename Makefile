# `make demo`: the whole recipe on this machine. `make test`: the tests. Both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

# Large tensors come and go at every step: keep their memory instead of asking the system anew (about a sixth
# of the time on two cores).
export MALLOC_MMAP_THRESHOLD_ = 4294967296
export MALLOC_TRIM_THRESHOLD_ = 8589934592

.PHONY: demo demo-long env env-dev system test lint types docs check clean

# --no-compile: a module is compiled when it is first imported, most never are.
env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[ocr,report]'
	touch $(STAMP)

# What tests and linters need besides: Ray, transformers, ...
env-dev: $(DEV_STAMP)

$(DEV_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,ocr,report]'
	touch $(DEV_STAMP)

demo: system env
	$(BIN)/qvl demo --recipes recipes/tiny --out runs/tiny

# The same with more of everything: about two hours.
demo-long: system env
	$(BIN)/qvl demo --recipes recipes/tiny-long --out runs/tiny-long

# Fonts and a browser, when this user may install them; otherwise names what is missing.
system:
	bash scripts/system_packages.sh

# A thread for each of the two processes: with more they wait for each other most of the time.
test: env-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: env-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env-dev
	$(BIN)/mypy

# The documentation with the API reference: build/site/index.html. A broken link is an error.
docs: env-dev
	$(BIN)/sphinx-build -b html -j auto -q -W --keep-going docs build/site

check: lint types test

clean:
	rm -rf $(VENV) runs build dist
