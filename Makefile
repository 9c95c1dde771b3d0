# make demo   a robot follows instructions through a flat, over real ROS 2 topics; leaves a report page
# make live   the same world in real time, for sentences of your own
# make test   every test
# Each sets up what it needs in .venv; nothing else has to be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20
READY := $(VENV)/.ready
REQUIREMENTS := requirements.txt requirements-ros.txt requirements-msgs.txt requirements-dev.txt

.PHONY: setup demo live test test-fast coverage check docs pictures clean

setup: $(READY)

$(READY): $(REQUIREMENTS) pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v[:2] <= (3, 13) else \
	  f"Python 3.10 to 3.13 is needed, {v[0]}.{v[1]} found: try make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv $(VENV)
	touch $(VENV)/COLCON_IGNORE
	$(BIN)/python -m pip install --quiet $(REQUIREMENTS:%=-r %)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

demo: $(READY)
	$(BIN)/vln_ros demo

live: $(READY)
	$(BIN)/vln_ros live

test: $(READY)
	$(PYTEST)

test-fast: $(READY)
	$(PYTEST) -m "not slow"

# Lines and branches that the tests run, in the processes that they start too. Which tests: make coverage TESTS=test/test_config.py
coverage: $(READY)
	$(PYTEST) --cov --cov-report=term:skip-covered $(TESTS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages that are made from the code; tests hold them equal.
docs: $(READY)
	$(BIN)/vln_ros params --markdown > docs/parameters.md
	$(BIN)/vln_ros bench page
	$(BIN)/python docs/list_modules.py

# The pictures of the README and the docs, from the shipped policy and a headless Chromium
pictures: $(READY)
	$(BIN)/python -m docs.make_pictures

clean:
	rm -rf $(VENV) build install log *.egg-info .coverage*
