# One command each. `make` alone lists them; what a target runs is one line below it.
#
#   PYTHON   the Python that makes the virtual environment (3.11 or newer)
#   EXP      an experiment of experiments.yaml
#   SET      settings to override: SET="budget.trials=4 seed=1"
#   TRIAL    a trial number, for `make logs`
#   DIR      a folder, for `make export`

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
TRADESWEEP := $(BIN)/tradesweep
# A file of tests stays in one process, for its fixtures are whole sweeps; a process of them takes a gigabyte.
AT_ONCE := -n auto --maxprocesses 4 --dist loadfile

# Recipes read these as shell variables, never as text pasted into a command: no value can become code.
export EXP SET TRIAL DIR

.PHONY: help setup experiments plan sweep status stop logs promote verify export ui smoke gc db-backup db-reset \
	test test-slow test-all bench check format clean need-exp

##@ Setting up

help:  ## | this list
	@awk -F ' *##' '/^##@ / { print "\n" substr($$0, 5) } \
	    /^[a-z-]+:.*##.*\|/ { split($$1, name, ":"); split($$2, word, / *\| */); \
	        printf "  make %-32s %s\n", name[1] word[1], word[2] }' $(firstword $(MAKEFILE_LIST))

setup: $(READY)  ## | the virtual environment with the pinned packages (the others do this when it is due)

$(READY): pyproject.toml constraints.txt
	@echo "setup: $(VENV), from $$($(PYTHON) --version 2>&1)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "setup: Python 3.11 or newer is needed; name one: make setup PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "setup: installing the versions of constraints.txt (minutes the first time, and quiet)"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "setup: done"

##@ Sweeps

experiments: $(READY)  ## | the experiments of experiments.yaml
	@$(TRADESWEEP) experiments

plan: need-exp $(READY)  ## EXP=x [SET="a.b=1 c=2"] | what a sweep would do and need; starts nothing
	@$(TRADESWEEP) plan "$$EXP" $${SET:+--set "$$SET"}

sweep: need-exp $(READY)  ## EXP=x [SET="a.b=1 c=2"] | run a sweep, or go on with it
	@$(TRADESWEEP) sweep "$$EXP" $${SET:+--set "$$SET"}

status: $(READY)  ## [EXP=x] | sweeps and trials, progress, best so far
	@$(TRADESWEEP) status $${EXP:+"$$EXP"}

stop: $(READY)  ## [EXP=x] | end a running sweep in order, from another terminal
	@$(TRADESWEEP) stop $${EXP:+"$$EXP"}

logs: need-exp $(READY)  ## EXP=x [TRIAL=0] | the log of a sweep's driver, or of one trial
	@$(TRADESWEEP) logs "$$EXP" $${TRIAL:+"$$TRIAL"}

promote: need-exp $(READY)  ## EXP=x | read the test split once and make the best checkpoint champion
	@$(TRADESWEEP) promote "$$EXP"

verify: $(READY)  ## [EXP=x] | check every rule of the database
	@$(TRADESWEEP) verify $${EXP:+"$$EXP"}

export: need-exp $(READY)  ## EXP=x DIR=folder | a sweep's tables as Parquet files
	@test -n "$$DIR" || { echo 'DIR is missing: make export EXP=dqn_lr DIR=out' >&2; exit 2; }
	@$(TRADESWEEP) export "$$EXP" --parquet "$$DIR"

ui: $(READY)  ## | MLflow on http://127.0.0.1:5000
	@$(TRADESWEEP) ui

smoke: $(READY)  ## | a tiny DQN sweep, a tiny PPO sweep and verify, in a folder that goes away
	@MLFLOW_TRACKING_URI= $(TRADESWEEP) smoke

gc: $(READY)  ## | remove what runs that are gone have left: sessions, unfinished checkpoints
	@$(TRADESWEEP) gc

db-backup: $(READY)  ## | a copy of the database in runs/backups, also while a sweep runs
	@$(TRADESWEEP) db backup

db-reset: $(READY)  ## | delete all results, after asking
	@$(TRADESWEEP) db reset

##@ Development

test: $(READY)  ## | the tests, less the slow ones; some files at a time
	@$(BIN)/python -m pytest $(AT_ONCE)

test-slow: $(READY)  ## | the slow tests alone
	@$(BIN)/python -m pytest -m slow

test-all: $(READY)  ## | all tests
	@$(BIN)/python -m pytest -m ''

bench: $(READY)  ## | all benchmarks, at their usual sizes; tables here and in benchmarks/results/
	@$(BIN)/python -m benchmarks

check: $(READY)  ## | format, lint, types, and the floors between the packages
	@echo "check: ruff format"; $(BIN)/ruff format --quiet --check .
	@echo "check: ruff"; $(BIN)/ruff check --quiet .
	@echo "check: mypy"; $(BIN)/mypy --no-error-summary --num-workers 2
	@echo "check: import-linter"; said="$$($(BIN)/lint-imports --no-logo)" || { echo "$$said" >&2; exit 1; }

format: $(READY)  ## | put the code into its format and mend what ruff can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

clean:  ## | delete caches and build outputs; results and the virtual environment stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Not for people.

need-exp:
	@test -n "$$EXP" || { echo 'EXP is missing: make $(firstword $(MAKECMDGOALS)) EXP=dqn_lr (make experiments lists them)' >&2; exit 2; }
