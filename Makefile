# make run: the default experiment. make test: the tests of every room and a whole workflow. Both set
# up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Snakemake's jobs call `python`: it has to be this one.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

# What `dashboard` shows, and where it listens.
RESULTS ?= results/digits
PORT ?= 5000

.PHONY: run test test-rest test-all test-faults test-slurm dashboard report benchmark lint format lock clean

run: $(VENV)/installed
	snakemake --cores all

# Files are shared out among the cores.
PYTEST := pytest --numprocesses auto --dist loadfile

test: $(VENV)/installed
	$(PYTEST) -m "not rest"

# What `make test` leaves out: faults, fuzz, a browser, servers, documentation, benchmarks' tiny cases,
# more whole workflows.
test-rest: $(VENV)/installed
	$(PYTEST) -m rest

test-all: $(VENV)/installed
	$(PYTEST)

# The faults that `make test-rest` injects, with more kills, at other moments: make test-faults SEED=7
KILLS ?= 50
SEED ?= 1
test-faults: $(VENV)/installed
	LANTK_KILLS=$(KILLS) LANTK_KILLS_SEED=$(SEED) pytest tests/system/faults

# The workflow on a Slurm cluster of one node, which is started on this machine, as root, and stopped
# again: Debian's slurm-wlm and munge have to be installed.
test-slurm: $(VENV)-slurm/installed
	@$(BIN)/python tests/system/slurm/cluster.py --check
	. $(VENV)-slurm/bin/activate; python -m pytest --timeout 1800 tests/system/slurm

# The runs in MLflow, until Ctrl-C. Of other results: make dashboard RESULTS=results/mine PORT=5001
dashboard: $(VENV)/installed
	python -m lantk mlflow dashboard --results '$(RESULTS)' --port $(PORT)

# Of the default experiment: our report, and beside it Snakemake's own, with every job and its code.
# Of other results, ours: make report RESULTS=results/mine
report: $(VENV)/installed
ifeq ($(RESULTS),results/digits)
	snakemake --cores all html_report
	snakemake html_report --report results/digits/snakemake-report.html
	@printf '%s\n' results/digits/report.html results/digits/snakemake-report.html
else
	python -m lantk report --results '$(RESULTS)' --out '$(RESULTS)/report.html'
	@printf '%s\n' '$(RESULTS)/report.html'
endif

# Us beside neural-tangents, growth, peak memory: fifteen minutes, into results/benchmarks.
benchmark: $(VENV)/installed
	python benchmarks/side_by_side.py
	python benchmarks/published.py
	python benchmarks/growth.py
	python benchmarks/memory.py

lint: $(VENV)/installed
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-cache
	codespell Snakefile config.yaml README.md CHANGELOG.md docs lantk rules tests experiments benchmarks examples
	snakefmt --check Snakefile rules
	snakemake --lint

format: $(VENV)/installed
	ruff format .
	ruff check --fix .
	snakefmt Snakefile rules

# PyTorch is taken in its CPU build where pip finds one, else as the package index has it.
$(VENV)/installed: envs/lock.txt envs/torch-cpu.txt envs/torch.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@echo 'Setting up $(VENV): some 150 packages and PyTorch, gigabytes on disk; it takes minutes, in which pip prints nothing ...'
	$(PYTHON) -m venv $(VENV)
	torch=envs/torch-cpu.txt; \
	$(BIN)/pip install --quiet --disable-pip-version-check --dry-run --no-deps -r $$torch > /dev/null 2>&1 || torch=envs/torch.txt; \
	echo "PyTorch as in $$torch"; \
	$(BIN)/pip install --quiet --disable-pip-version-check -r envs/lock.txt -r $$torch
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Snakemake with its executors for clusters. An environment of its own, which takes all else from
# the first: the one for Slurm asks Slurm's controller for its settings whenever Snakemake starts.
PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(VENV)-slurm/installed: envs/slurm.txt $(VENV)/installed
	$(BIN)/python -m venv --clear --without-pip $(VENV)-slurm
	$(BIN)/pip --python $(VENV)-slurm install --quiet --disable-pip-version-check --no-deps --require-hashes -r envs/slurm.txt
	echo "import site; site.addsitedir('$$($(BIN)/python $(PACKAGES))')" > "$$($(VENV)-slurm/bin/python $(PACKAGES))/lantk.pth"
	sed '1s|.*|#!/usr/bin/env python|' $(BIN)/snakemake > $(VENV)-slurm/bin/snakemake
	chmod +x $(VENV)-slurm/bin/snakemake
	touch $@

# The newest versions that pyproject.toml allows, with the hashes of all their files.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --disable-pip-version-check --upgrade uv
	$(VENV)-lock/bin/python envs/make_lock.py --upgrade
	rm -rf $(VENV)-lock
	@echo 'Next: the versions in envs/lantk.yaml by hand, make run, python docs/make_licences.py'

clean:
	rm -rf results .snakemake
