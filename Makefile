# make run: the default experiment. make test: all tests. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Snakemake's jobs call `python`: it has to be this one.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

# What `dashboard` shows, and where it listens.
RESULTS ?= results/digits
PORT ?= 5000

.PHONY: run test dashboard report benchmark lint format lock clean

run: $(VENV)/installed
	snakemake --cores all

test: $(VENV)/installed
	pytest

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

# Us beside neural-tangents, growth, peak memory: ten minutes, into results/benchmarks.
benchmark: $(VENV)/installed
	python benchmarks/side_by_side.py
	python benchmarks/growth.py
	python benchmarks/memory.py

lint: $(VENV)/installed
	ruff format --check .
	ruff check .
	mypy
	codespell Snakefile config.yaml README.md CHANGELOG.md docs lantk rules tests/*.py experiments benchmarks
	snakefmt --check Snakefile rules
	snakemake --lint

format: $(VENV)/installed
	ruff format .
	ruff check --fix .
	snakefmt Snakefile rules

$(VENV)/installed: envs/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@echo 'Setting up $(VENV): a large download with PyTorch, which takes minutes ...'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r envs/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# The newest versions that pyproject.toml allows, resolved in an environment of its own.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install 'torch==2.13.0' '.[dev]'
	(sed -n 1p envs/lock.txt; $(VENV)-lock/bin/pip freeze --all | grep -vE '^(lantk|pip)\b' | sed 's/+cpu//' | sort -f) > envs/lock.tmp
	mv envs/lock.tmp envs/lock.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf results .snakemake
