# make repro  install, run the pipeline, say where the leaderboard is
# make test   install, run the tests
# make lint   ruff and mypy, as CI runs them
# make bench  measurements that fit into ten minutes; benchmarks/ has more
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
	for script in training_speed scaling salun_masks kodge_algebra "kodge_cifar one more" digits_training; do \
		set -- $$script; name=$$1; shift; python benchmarks/$$name.py $$* || exit 1; done
	@if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		python benchmarks/gpu.py throughput; fi

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
