# `make` says what there is to make. Each target sets up what it needs in .venv; nothing else has to be installed.
PYTHON ?= python3
# Which build of torch: the index's default (on Linux with CUDA, some gigabytes), or cpu, which is small
TORCH ?= default
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 20
READY := $(VENV)/.ready
REQUIREMENTS := requirements.txt requirements-ros.txt requirements-msgs.txt requirements-dev.txt

.PHONY: help setup demo live test test-fast coverage check docs site pictures clean

help:  ## what there is to make (this list)
	@echo "make TARGET [PYTHON=python3.12] [TORCH=cpu]"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	  printf '  %-12s%s\n' "$$name" "$$text"; done

setup: $(READY)  ## .venv with everything; TORCH=cpu takes torch without CUDA, which saves gigabytes
	@echo "ready: $(BIN)/vln_ros (try: make demo; $(BIN)/vln_ros doctor says what this machine can do)"

$(READY): $(REQUIREMENTS) pyproject.toml setup.py
	@case "$(TORCH)" in default|cpu) ;; *) echo "TORCH = $(TORCH): choose default or cpu" >&2; exit 2 ;; esac
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v[:2] <= (3, 13) else \
	  f"Python 3.10 to 3.13 is needed, {v[0]}.{v[1]} found: try make PYTHON=python3.12 setup")'
	@echo "[1/4] an environment of its own: $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $(VENV)/COLCON_IGNORE
	@echo "[2/4] torch ($(TORCH))"
	@$(BIN)/python -m pip install $(if $(filter cpu,$(TORCH)),--index-url $(TORCH_INDEX)) \
	  "$$(sed -n 's/^torch==/torch==/p' requirements.txt)"
	@echo "[3/4] everything else"
	@$(BIN)/python -m pip install $(REQUIREMENTS:%=-r %)
	@echo "[4/4] this package, editable"
	@$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)  ## a robot follows instructions through a flat, over real ROS 2 topics; leaves a report page
	$(BIN)/vln_ros demo

live: $(READY)  ## the same world in real time, for sentences of your own
	$(BIN)/vln_ros live

test: $(READY)  ## every test
	$(PYTEST)

test-fast: $(READY)  ## the tests that are not marked slow
	$(PYTEST) -m "not slow"

coverage: $(READY)  ## lines and branches that the tests run; TESTS=test/test_config.py: that these run
	$(PYTEST) --cov --cov-report=term:skip-covered $(TESTS)

check: $(READY)  ## ruff, ruff format, mypy --strict, the English of the pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/style.py --quiet

docs: $(READY)  ## the pages that are made from the code; tests hold them equal
	$(BIN)/vln_ros params --markdown > docs/reference/parameters.md
	$(BIN)/vln_ros bench page
	$(BIN)/python docs/list_commands.py

site: $(READY)  ## the pages as a site in build/site; a broken link ends it
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pictures: $(READY)  ## the pictures of README and docs, from the shipped policy and a headless Chromium
	$(BIN)/python -m docs.make_pictures

clean:  ## remove .venv and what was built
	rm -rf $(VENV) build install log *.egg-info .coverage*
