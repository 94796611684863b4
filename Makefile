# make repro  install, run the pipeline, say where the leaderboard is
# make test   install, run the tests
# make lint   ruff and mypy, as CI runs them
# make bench  the measurements in benchmarks/
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Where a machine forbids bytecode, every process would compile torch anew: seconds a stage.
export PYTHONDONTWRITEBYTECODE :=
INSTALLED := .venv/installed

.PHONY: repro test lint bench verify clean

repro: $(INSTALLED)
	dvc repro
	@echo "The leaderboard: file://$(CURDIR)/reports/index.html (also reports/BENCHMARK/leaderboard.md and .csv)"

test: $(INSTALLED)
	python -m pytest

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy bench methods

bench: $(INSTALLED)
	python benchmarks/digits_training.py
	python benchmarks/kodge_algebra.py

verify: $(INSTALLED)
	python -m bench verify

$(INSTALLED): requirements.lock requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Lethe needs Python 3.11 to 3.13 and `$(PYTHON) --version` is $(PYTHON); name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock requirements-uv.lock
	touch $@

clean:
	rm -rf .venv
