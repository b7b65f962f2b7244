# make demo      install into .venv, resynthesise the bundled speech, show quality and speed
# make test      install what the tests need; lint, types, layers and all tests but the slow ones
# make test-all  the slow ones too
# make bench     speed against the published architecture and the baselines -> docs/benchmarks.md
# make report [DATA=LIST ABOUT=".."]  quality, speed, energy of all bundled models and peers -> README.md, docs/benchmarks.md, report/index.html
# make picture   the README's picture anew, from the bundled vocoder
# Needs Python >= 3.11 (name another one by make PYTHON=python3.12 demo), git and make. No compiler: what needs one is left out by name.

SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --constraint constraints.txt
INPUTS := pyproject.toml constraints.txt
DEMO_OUT ?= demo_out

.PHONY: demo test test-all lint bench report picture clean

demo: .venv/.demo
	$(BIN)/wavespike demo --out $(DEMO_OUT)

test: .venv/.test lint
	$(BIN)/python -m pytest -rs -m "not slow"

test-all: .venv/.test lint
	$(BIN)/python -m pytest -rs

lint: .venv/.test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.test
	-$(PIP) --no-deps vocos
	$(BIN)/python benchmarks/bench_vocoders.py
	$(BIN)/python benchmarks/bench_neurons.py --page
	$(BIN)/python benchmarks/bench_sparch.py --page
	$(BIN)/python benchmarks/bench_codecs.py
	-$(BIN)/python benchmarks/bench_events.py

report: .venv/.test
	$(BIN)/python benchmarks/make_report.py --out report $(if $(DATA),--data $(DATA)) $(if $(ABOUT),--about "$(ABOUT)") $(if $(MODELS),--model $(MODELS))

picture: demo
	cp $(DEMO_OUT)/demo.png docs/images/demo.png

.venv/.python:
	@test -n "$(PYTHON)" || { echo "make: expected Python >= 3.11 with venv and ensurepip, found none; install it (Debian: python3-venv) or say make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: .venv/.python $(INPUTS)
	@echo "make: installing into .venv; a few minutes the first time"
	$(PIP) --editable ".[demo]"
	@$(MAKE) --no-print-directory compiled
	@touch $@

.venv/.test: .venv/.python $(INPUTS)
	@echo "make: installing into .venv; a few minutes the first time"
	$(PIP) --editable ".[test]"
	@$(MAKE) --no-print-directory compiled
	@touch $@ .venv/.demo

# packages that pip may have to compile: tried one by one, named when they are left out
.PHONY: compiled
compiled:
	@for extra in pesq pitch visqol; do \
	  $(PIP) --editable ".[$$extra]" > .venv/$$extra.log 2>&1 || \
	  echo "make: the extra '$$extra' was left out, its package could not be built (it needs a C++ compiler and Python's headers; log in .venv/$$extra.log)"; \
	done

clean:
	rm -rf .venv report $(DEMO_OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
