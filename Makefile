# The commands are `make demo`, `make learn` and `make test`; each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo learn test test-slow test-browser test-ray docs mutants check format bench bench-peers bench-ray house clean
.DELETE_ON_ERROR:

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reverie needs Python 3.11 or newer; run make PYTHON=python3.11 (or newer)")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: its pinned version decides which of its own dependencies arrive. MinAtar goes last and
# without dependencies: they are plotting libraries for a viewer that nobody opens here.
$(VENV)/.iris: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[iris]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps MinAtar
	@touch $@

$(VENV)/.dev: $(VENV)/.iris
	$(BIN)/python -m pip install -q --no-warn-conflicts -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.iris
	$(BIN)/reverie demo --out runs/demo --force

learn: $(VENV)/.iris
	$(BIN)/reverie learn --out runs/learn

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not browser and not ray'

test-slow: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -m slow

# Needs Chromium: Debian's package of that name, or whatever REVERIE_CHROMIUM names.
test-browser: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt playwright
	$(BIN)/python -m pytest -n 0 -rs -m browser tests/report

# Ray takes half a minute to start, and 79 MB.
test-ray: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -n 0 -m "ray and not slow" tests/with_ray

# The manual as a site of its own: site/index.html. A broken link or a name without a docstring is an error.
docs: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

# Hours for everything; ROOMS="index samplers" SAMPLE=40 SEED=1 tries 40 changes of two rooms in minutes.
ROOMS ?=
SAMPLE ?= 0
SEED ?= 0
mutants: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[mutants]'
	$(BIN)/python tests/mutants.py $(ROOMS) --sample $(SAMPLE) --seed $(SEED)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# Gigabytes of other libraries, each in an environment of its own under .bench, and most of an hour.
bench-peers: $(VENV)/.dev
	$(BIN)/python -m benchmarks.peers

# What shards on Ray cost, in five minutes. Ray takes half a minute to start, and 79 MB; TorchRL gets an environment of its own.
bench-ray: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ray]'
	$(BIN)/python -m benchmarks.shards

# How large the parts of reverie are, and through how many of them a call runs.
house: $(VENV)/.dev
	$(BIN)/python -m benchmarks.house

clean:
	rm -rf $(VENV) .bench dist runs
