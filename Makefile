# Needs nothing but Python 3.10 or later (PYTHON=… to choose one).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Tests of one file share what they build: a file is one worker's. Each worker needs 2 GB or so.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test check signs bench-calibration bench-peers bench-below-int8 \
  bench-camera gpu-check clean

demo: $(VENV)/.demo            ## the whole chain on bundled data, under four minutes
	$(BIN)/alexnet-edge demo --workdir demo

test: $(VENV)/.test            ## every test that this machine can run
	$(PYTEST)

check: $(VENV)/.test           ## format, lint, types, import directions, Dockerfile, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint --no-color Dockerfile.jetson
	$(PYTEST)

signs: $(VENV)/.demo           ## benchmarks/signs.py: the chain at full size on camera photos
	$(BIN)/python benchmarks/signs.py

bench-calibration: $(VENV)/.peers  ## benchmarks/calibration.py: beside the peers; needs signs
	$(BIN)/python benchmarks/calibration.py

bench-peers: $(VENV)/.peers    ## benchmarks/peers.py: INT8 beside the peers'; needs signs
	$(BIN)/python benchmarks/peers.py

bench-below-int8: $(VENV)/.peers   ## benchmarks/below_int8.py: 4-bit beside INT8; needs signs
	$(BIN)/python benchmarks/below_int8.py

bench-camera: $(VENV)/.demo    ## benchmarks/camera.py: the loop beside the bare engine; needs signs
	$(BIN)/python benchmarks/camera.py

gpu-check: $(VENV)/.test       ## benchmarks/gpu_check.py: what an NVIDIA GPU is needed for
	$(BIN)/python benchmarks/gpu_check.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) --editable ".[cpu,train,demo,rtx,camera,report]"
	touch $@

$(VENV)/.peers: $(VENV)/.demo
	$(PIP) --editable ".[peers]"
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) --editable ".[dev]"
	$(PIP) --no-deps tensorrt-stubs
	# The stubs name parameters "in", and one without a default after some with: no Python.
	cd $(VENV)/lib/python3.*/site-packages/tensorrt_bindings && \
	  sed -E -e 's/([(, ])in: /\1in_: /g' -e 's/(channel_axis: int)\) -> IScale/\1 = ...) -> IScale/' \
	    tensorrt.pyi > mended && mv mended tensorrt.pyi
	touch $@

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
