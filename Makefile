# make serve            set everything up and serve music on port 3000
# make serve PORT=8080  … on another port
# make serve CUDA=1     … on an NVIDIA GPU
# make serve TLS=1      … with TLS, which Google's Python SDK insists on
# make test             set everything up; check format, lint and types; run the tests, in minutes
# make test-all         those, the long ones (soaks, fuzzing at full length) and the demo's tools
# make test-long        the long ones alone
# make test-tools       the tests of tools/demo_model alone
# make check            the checks of `make test` that need no tests
# make docs             write the tables of README and docs/ again, from the code
# make bench            the benchmarks that need no GPU
# make bento            a Bento with the demo; MODEL=mrt2_small includes that model
# make image            an image of it; BACKEND=podman, buildah, … instead of Docker
# make audit            known weaknesses of the pinned packages; needs a network

VENV ?= .venv
PORT ?= 3000
BACKEND ?= docker
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := magenta_bento service.py tests bench tools deploy

ifdef CUDA
RUNTIME := requirements-cuda.txt
INSTALLED := $(VENV)/.installed-cuda
else
RUNTIME := requirements.txt
INSTALLED := $(VENV)/.installed
endif

# Files that share a server run on one worker: see tests/conftest.py.
RUN_TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

.PHONY: serve test test-all test-long test-tools check format docs bench bento image audit clean

serve: $(INSTALLED)
	$(BIN)/magenta-bento serve --port $(PORT) $(if $(TLS),--tls)

test: $(VENV)/.installed-dev check
	$(RUN_TESTS) -m "not long and not tools" $(PYTEST)

test-all: test test-long test-tools

test-long: $(VENV)/.installed-dev
	$(RUN_TESTS) -m long $(PYTEST)

test-tools: $(VENV)/.installed-dev
	$(RUN_TESTS) -m tools $(PYTEST)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy magenta_bento service.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: $(VENV)/.installed-dev
	$(BIN)/python -m tools.docs

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench.engine
	$(BIN)/python -m bench.server
	$(BIN)/python -m bench.live

bento: $(INSTALLED)
	$(if $(MODEL),$(BIN)/magenta-bento models pack $(MODEL))
	$(if $(MODEL),MAGENTA_MODEL=$(MODEL)) $(BIN)/bentoml build

image: bento
	$(BIN)/bentoml containerize magenta-bento:latest --backend $(BACKEND)

audit: $(VENV)/.installed-dev
	timeout 120 $(BIN)/pip-audit --requirement requirements.txt --no-deps --disable-pip --progress-spinner off

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(RUNTIME) pyproject.toml | $(VENV)/bin/python
	$(PIP) install -r $(RUNTIME)
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) install -r requirements-dev.txt
	touch $@

ifdef CUDA
$(VENV)/.installed: $(INSTALLED)
	touch $@
endif

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .cache *.egg-info
