# Two commands, each of which does its own set-up on a bare machine and skips it when it is current.
#   make triage   find out why the bundled model recipe fails, and what fixes it
#   make test     run every check and every test
# And one that sets up nothing, for a machine with a GPU and a CUDA build of torch:
#   make bench-gpu   measure training, evaluation and search at the failure report's size
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: triage test check bench-gpu clean

triage: $(VENV)/.base
	$(BIN)/python tune_jobs/triage.py $(ARGS)

test: $(VENV)/.dev
	$(MAKE) --no-print-directory check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(ARGS)

bench-gpu:
	$(PYTHON) benchmarks/bench_gpu.py $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# torch is installed first and pinned, because another package's open range would fetch another build.
$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,embed]'
	touch $@

clean:
	rm -rf $(VENV)
