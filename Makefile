# What is typed more than once. `make` alone lists it; whatever needs the environment makes it first.
# For GNU make 3.81 (the one macOS has) and newer, and a plain POSIX sh.

# The first of these that is Python 3.11 to 3.14 makes the environment.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
VENV ?= .venv
# uv installs faster than pip; UV= on the command line takes pip all the same.
UV ?= $(shell command -v uv 2>/dev/null)
EXP ?= demo
# What is installed beside the package: dev (tests and linters), or other extras (EXTRAS=speech,wandb), or none (EXTRAS=).
EXTRAS ?= dev
# Test processes side by side; each takes 1 to 2 GB of memory.
JOBS ?= auto

PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
# Unlike pip, uv compiles nothing by itself, and then every start takes 10 seconds longer.
INSTALL := $(if $(UV),UV_COMPILE_BYTECODE=1 $(UV) pip install --python $(PY),$(PY) -m pip install --quiet)
# What sed takes out of the lock: names, versions and markers without hashes.
VERSIONS := s/^\([a-zA-Z0-9._-]*==[^ \\]*\)\( *;[^\\]*\)\{0,1\}.*/\1\2/p
TEST := $(VENV)/bin/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal --durations=20 --durations-min=5
RESUMING = $(if $(RESUME),"resume=$(RESUME)") $(ARGS)
OVERRIDES = experiment=$(EXP) $(RESUMING)
# A run folder says by itself what its run is, where no EXP is given.
ITSELF = $(and $(filter-out latest,$(RESUME)),$(filter file,$(origin EXP)))
# $(call need,VALUE,SENTENCE) stops with the sentence where there is no value.
need = @$(if $(strip $(1)),:,echo '$(2)' >&2; exit 1)

.DEFAULT_GOAL := help
.PHONY: help setup check doctor train evaluate report compare predict folds sweep lr test test-slow lint format lock bench reproduce docs release notebook \
  clean distclean

help: ## list what make can do
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make the environment in .venv (other targets do that, too); EXTRAS= leaves out the development tools

# Touched last: a set-up that was interrupted is done again, and so is one whose lock has changed.
$(STAMP): requirements.lock pyproject.toml
	@for python in $(PYTHON) none; do $$python -c "$(SUITABLE)" 2>/dev/null && break; done; \
	if [ "$$python" != none ]; then \
	  echo "Setting up $(VENV) with $$($$python --version): some minutes and 7 GB of disk, once."; \
	  $$python -m venv $(VENV); \
	elif [ -n "$(UV)" ]; then \
	  echo "Setting up $(VENV) with a Python that uv brings: some minutes and 7 GB of disk, once."; \
	  $(UV) venv --quiet --allow-existing --python '>=3.11,<3.15' $(VENV); \
	else \
	  echo "None of \"$(PYTHON)\" is a Python 3.11 to 3.14 with venv: install one (apt install python3.13-venv," \
	    "brew install python@3.13), install uv, which brings its own (pipx install uv), or name one with" \
	    "PYTHON=/path/to/python." >&2; \
	  exit 1; \
	fi
ifeq ($(EXTRAS),dev)
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
else
	@# The versions of the lock; its hashes count where all of it is installed.
	@sed -n '$(VERSIONS)' requirements.lock > $(VENV)/versions.txt
	$(INSTALL) --constraint $(VENV)/versions.txt -e "$(if $(EXTRAS),.[$(EXTRAS)],.)"
endif
	@touch $@

check: $(STAMP) ## look at every clip of the corpus of EXP=demo, or of ARGS="data=audio_folder data.root=FOLDER"
	$(PY) -m lightning_audio check experiment=$(EXP) $(ARGS)

doctor: $(STAMP) ## ask whether a speech experiment can learn at all: EXP=digits_bilstm
	$(PY) -m lightning_audio doctor experiment=$(EXP) $(ARGS)

train: $(STAMP) ## train EXP=demo; ARGS="seed=1" changes settings, RESUME=latest (or a run folder) resumes
	$(PY) -m lightning_audio train $(if $(ITSELF),$(RESUMING),$(OVERRIDES))

evaluate: $(STAMP) ## print the test scores of RUN=logs/... again
	$(call need,$(RUN),Name the run folder: make evaluate RUN=logs/EXPERIMENT/DATE_TIME.)
	$(PY) -m lightning_audio evaluate "$(RUN)" $(ARGS)

report: $(STAMP) ## write report.html of RUN=logs/... again: a run, folds or a sweep
	$(call need,$(RUN),Name the run folder: make report RUN=logs/EXPERIMENT/DATE_TIME.)
	$(PY) -m lightning_audio report "$(RUN)" $(ARGS)

compare: $(STAMP) ## ask whether RUN=logs/... is better than OTHER=logs/..., clip by clip
	$(call need,$(and $(RUN),$(OTHER)),Name two runs: make compare RUN=logs/EXPERIMENT/DATE_TIME OTHER=logs/...)
	$(PY) -m lightning_audio compare "$(RUN)" "$(OTHER)" $(ARGS)

# One AUDIO may hold spaces as it is; among several, quotes keep it together: AUDIO="'my dog.wav' *.mp3".
predict: $(STAMP) ## what RUN=logs/... says to AUDIO="one.wav *.mp3 folder"; ARGS="--format csv"
	$(call need,$(and $(RUN),$(AUDIO)),Name run and audio: make predict RUN=logs/EXPERIMENT/DATE_TIME AUDIO=dog.wav.)
	@if [ -e "$$AUDIO" ]; then set -- "$$AUDIO"; else set -- $(AUDIO); fi; \
	$(PY) -m lightning_audio predict "$(RUN)" "$$@" $(ARGS)

folds: $(STAMP) ## cross-validate EXP=esc10_cnn2d over its official folds; ARGS and RESUME as in train
	$(PY) -m lightning_audio folds $(OVERRIDES)

sweep: $(STAMP) ## look for good settings of EXP=demo: SWEEP=random, coarse_to_fine, optuna, asha, or ARGS="optimizer.lr=1e-3,3e-4"
	$(call need,$(SWEEP)$(ARGS),Name a sweep of conf/sweep: make sweep EXP=demo SWEEP=NAME; or values to try in ARGS.)
	$(PY) -m lightning_audio sweep experiment=$(EXP) $(if $(SWEEP),sweep=$(SWEEP)) $(ARGS)

lr: $(STAMP) ## look for a learning rate for EXP=demo
	$(PY) -m lightning_audio find-lr experiment=$(EXP) $(ARGS)

test: $(STAMP) ## run the tests but for the slow ones; ARGS="-k store" runs some
	$(TEST) -m "not slow" $(ARGS)

test-slow: $(STAMP) ## run the slow tests
	$(TEST) -m slow --timeout 1800 $(ARGS)

lint: $(STAMP) ## check with ruff and mypy
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: $(STAMP) ## lay the code out, and mend what ruff can mend
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

lock: ## pin the newest versions that pyproject.toml allows (with uv)
	$(call need,$(UV),The lock is made with uv and there is none on the PATH: install uv first.)
	$(UV) pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --extra dev --quiet --output-file requirements.lock pyproject.toml

bench: $(STAMP) ## run the benchmarks and write their tables; ARGS="loading --quick" runs one, keeps nothing
	$(PY) benchmarks/run.py $(ARGS)

reproduce: $(STAMP) ## fetch the corpus of EXP=esc50_resnet, train, compare with what is published, write a row of the tables
	$(PY) benchmarks/reproduce.py $(EXP) $(ARGS)

docs: $(STAMP) ## build the documentation into build/docs, to open from the disk
	$(PY) -m mkdocs build --quiet --strict -f docs/mkdocs.yml
	@echo "build/docs/index.html"

release: $(STAMP) ## build wheel and sdist into dist/, and train the demo from each of them in a fresh environment
	rm -rf dist build/release
	$(PY) -m build --no-isolation
	sed -n '$(VERSIONS)' requirements.lock > $(VENV)/versions.txt
	@for file in dist/*.whl dist/*.tar.gz; do \
	  echo "== $$file"; \
	  $(PY) -m venv --clear build/release && \
	  build/release/bin/python -m pip install --quiet --constraint $(VENV)/versions.txt "$$file" && \
	  (cd build/release && bin/lightning-audio train experiment=demo paths.logs=logs) || exit 1; \
	done
	rm -rf build/release

notebook: $(STAMP) ## open the notebooks; installs JupyterLab the first time
	@$(PY) -c "import jupyterlab" 2>/dev/null || $(INSTALL) --no-build-isolation -e ".[notebook]"
	$(PY) -m jupyterlab notebooks

clean: ## remove caches and built packages; data, logs and the environment stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find $(wildcard src tests benchmarks notebooks) -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) \
	  -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; else echo "There is no environment in $(VENV)."; fi
