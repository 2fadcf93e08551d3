# Commands go through `.venv/bin/python -m`, and no path is absolute: the project may lie below a folder with a space
# in its name, where the scripts in .venv/bin do not work.

PY := .venv/bin/python
ARGS ?= with navigation_2d
PARALLEL := --numprocesses auto --maxprocesses 4
# Many of the longer tests wait for other processes; and a worker without work takes over that of others.
WAITING = --numprocesses $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses 4 --dist worksteal
QUICK := tests/unit tests/contracts tests/security -m quick $(PARALLEL)
SMOKE := tests/unit/test_streams.py tests/unit/test_checkpoint.py tests/contracts/test_backends.py \
  tests/tracking/test_sacred.py tests/tracking/test_interruption.py

.PHONY: help run quick test smoke lint slow bench peers notebooks clean

help:
	@echo 'Each command makes .venv first when it is missing or out of date.'
	@echo
	@echo '  make run [ARGS="with fast"]   train MAML-TRPO; ARGS go to experiments/maml_trpo.py (default: $(ARGS))'
	@echo '  make quick                    lint, types, and the quick tests of units, contracts and security: two minutes'
	@echo '  make test                     lint, types, all tests but the slow ones, and the coverage of the quick ones'
	@echo '  make smoke                    a few tests of every part, for another interpreter'
	@echo '  make slow                     the tests that take minutes'
	@echo '  make bench [ONLY=text]        measure speed and memory, those whose name contains the text'
	@echo '  make peers                    make .venv-peers, which has what `make bench ONLY=peers` compares with'
	@echo '  make notebooks [ONLY=01]      execute the notebooks whose names begin so, and make pages of them'
	@echo '  make clean                    remove .venv and what the tools keep; runs/ stays'
	@echo
	@echo 'To work inside the environment:  . .venv/bin/activate'
	@echo 'To choose the interpreter:       make PYTHON=/path/to/python3.11 ...   (makes .venv again if it has another)'

run:
	@sh requirements/install.sh run
	$(PY) experiments/maml_trpo.py $(ARGS)

lint:
	@sh requirements/install.sh test
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as main; main()' --no-logo

quick: lint
	$(PY) -m pytest $(QUICK)

test: lint
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest $(QUICK)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report
	$(PY) -m pytest -m 'not slow and not quick' $(WAITING)

smoke:
	@sh requirements/install.sh smoke
	$(PY) -m pytest $(SMOKE) $(PARALLEL)
	$(PY) experiments/maml_trpo.py with fast

slow:
	@sh requirements/install.sh test
	$(PY) -m pytest -m slow $(PARALLEL) --durations=0 -v

bench:
	@sh requirements/install.sh run
	$(PY) -m benchmarks $(if $(ONLY),'$(ONLY)')

peers:
	@sh requirements/install.sh run
	$(PY) -m venv --clear .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check install --requirement requirements/peers.txt

notebooks:
	@sh requirements/install.sh test
	$(PY) -m analysis notebooks $(ONLY)

clean:
	rm -rf .venv .venv-peers build metapolicy.egg-info .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
