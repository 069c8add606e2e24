# Everything runs in .venv, made from constraints.txt. Needs only make and Python >= 3.11 (PYTHON=python3.12 chooses another).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# What `make demo` runs on: nothing means simulated clips; DATA=FOLDER means the clips (and manifest.csv) there.
DATA    ?=
OUT     ?= demo-out
# Local ImageNet weights for the demo's backbone, where some lie beside the data; without them it starts from nothing.
WEIGHTS ?= $(if $(DATA),$(firstword $(wildcard $(DATA)/../weights/*efficientnet_lite0*.safetensors)))

.PHONY: help install venv demo test slow check lint types contracts wheel format bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(BIN)/uv  ## only the empty environment (to put a torch build of your own into it first)
$(BIN)/uv: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sonokit needs Python >= 3.11; set PYTHON=python3.12 (or alike)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	@touch $@

# uv, because the torch stack is several gigabytes; hard links from its cache make a second environment almost free.
$(READY): $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@mkdir -p .links && ln -sfn "$(CURDIR)" .links/sonokit
	@touch $@

install: $(READY)  ## the environment with sonokit in it

demo: $(READY)  ## the whole road on simulated clips, or DATA=FOLDER for real ones; the report is OUT/report.html
	$(BIN)/python examples/demo.py --out "$(OUT)" $(if $(DATA),--data "$(DATA)") $(if $(WEIGHTS),--weights "$(WEIGHTS)")

# One thread a process: two test processes whose libraries each start as many threads as there are cores wait for each other.
WORKERS ?= 2
test: $(READY)  ## the tests (under ten minutes on two cores; WORKERS=4 for more)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

slow: $(READY)  ## the long tests, too
	$(BIN)/pytest -m 'slow or not slow'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

wheel: $(READY)  ## build the wheel, install it elsewhere, compare its files with the tree's
	$(BIN)/python tests/wheel_guard.py

check: test lint types contracts wheel  ## what CI runs

format: $(READY)  ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## one benchmark: make bench NAME=…
	@test -n "$(NAME)" || { echo "which one? make bench NAME=$$(ls benchmarks/*.py | xargs -n1 basename | sed 's/.py//' | paste -sd'|')"; exit 1; }
	$(BIN)/python benchmarks/$(NAME).py

clean:  ## remove what make made (not sonokit-cache, not demo-out)
	rm -rf $(VENV) .links build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
