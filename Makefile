# Everything that users and CI run. `make help` lists the targets.
#   make bench DATASET=cub METHODS=kd,sdd_kd SEEDS=3
PYTHON ?= python3
# of its own for every Python that is named: `make test PYTHON=python3.13`
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin

DATASET ?= digits
ARGS ?=
choices = $(if $(PAIRS),--pairs $(PAIRS)) $(if $(METHODS),--methods $(METHODS)) $(if $(SEEDS),--seeds $(SEEDS)) \
	$(if $(PROFILE),--profile $(PROFILE)) $(if $(RUNS),--runs $(RUNS)) $(if $(DATA),--data $(DATA)) \
	$(foreach assignment,$(SET),--set $(assignment)) $(plugins)
plugins = $(foreach plugin,$(PLUGIN),--plugin $(plugin))
places = $(if $(RUNS),--runs $(RUNS))

.DEFAULT_GOAL := help
.PHONY: help install bench study dashboard report status doctor ui server teachers perf test fuzz test-faults audit lint clean

help:  ## list the targets and their variables
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  variables of bench, report and status: DATASET=digits|cifar100|cub|imagenet|folder|path/to/suite.yaml PAIRS=t:s,... METHODS=m,...'
	@echo '    METHODS takes groups too: logit, feature, paper, later, all (python -m benchmark.run --help)'
	@echo '    SEEDS=n PROFILE=smoke SET="sdd.beta=4 recipe.epochs=60" RUNS=folder DATA=folder PLUGIN=file.py ARGS="--dry-run ..."'

# the stamp changes with the lock file, so a pull that moves a version reinstalls; packages are compiled to bytecode once
# here, and not by every process that is not allowed to keep what it compiles
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11, 3.12 or 3.13 is needed; choose it with make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

install: $(VENV)/.installed  ## create .venv from the lock file

bench: install  ## train a suite, track it, tabulate it
	@$(BIN)/python -m benchmark.run $(DATASET) $(choices) $(ARGS)

study: install  ## answer a question with a search: STUDY=sdd_beta (without STUDY: list all questions)
	@$(BIN)/python -m benchmark.study $(STUDY) $(if $(SUITE),--suite $(SUITE)) $(if $(PAIR),--pair $(PAIR)) \
		$(foreach assignment,$(SET),--set $(assignment)) $(if $(DATA),--data $(DATA)) $(plugins) $(places) $(ARGS)

dashboard: install  ## browse studies in Optuna's dashboard: STORAGE=file or URL (default: the newest under runs/)
	@storage="$(or $(STORAGE),$(shell ls -t $(or $(RUNS),runs)/studies/*.journal 2>/dev/null | head -1))"; \
	test -n "$$storage" || { echo "error: no study under $(or $(RUNS),runs): start one with make study STUDY=sdd_beta" >&2; exit 2; }; \
	exec $(BIN)/optuna-dashboard "$$storage" $(ARGS)

report: install  ## build a suite's tables and figures as a PDF from its tracked runs
	@$(BIN)/python -m reports $(DATASET) $(choices) $(ARGS)

status: install  ## show a suite's progress: done, to resume, missing, failed
	@$(BIN)/python -m benchmark status $(DATASET) $(choices) $(ARGS)

teachers: install  ## list the stored teachers
	@$(BIN)/python -m benchmark teachers list $(places) $(ARGS)

doctor: install  ## say what is wrong on this machine and in RUNS; ARGS=--fix fixes what is safe
	@$(BIN)/python -m benchmark doctor $(places) $(if $(DATA),--data $(DATA)) $(ARGS)

ui: install  ## browse every run in MLflow
	@$(BIN)/python -m benchmark ui $(places) $(ARGS)

server: install  ## serve a tracking server for several machines: STORE=postgresql://... HOST=0.0.0.0 PORT=5000 AUTH=1
	@$(BIN)/python -m benchmark server $(places) $(if $(STORE),--store '$(STORE)') $(if $(HOST),--host $(HOST)) \
		$(if $(PORT),--port $(PORT)) $(if $(AUTH),--auth) $(ARGS)

perf: install  ## time the released training loop against ours, side by side
	@$(BIN)/python -m benchmark.perf $(ARGS)

test: install  ## run the tests (offline; six minutes on two slow cores)
	@$(BIN)/python -m compileall -q benchmark distillers models reports studies
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

fuzz: install  ## give N fuzzed inputs (SEED) to everything that reads what people write: no traceback, no write outside
	@$(BIN)/python -m tests.fuzz --inputs $(or $(N),10000) --seed $(or $(SEED),0) $(ARGS)

test-faults: install  ## break commands at every point, run them again, and check that nothing was lost (half an hour)
	@$(BIN)/python -m tests.faults $(ARGS)

audit: install  ## check the locked packages for known vulnerabilities, where the package index tells
	@$(BIN)/python .ci/audit $(BIN)/uv

lint: install  ## run ruff and mypy --strict
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean:  ## remove the environment and caches; keeps runs/ and data/
	rm -rf .venv .venv-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
