# Every target installs what it needs: `make demo` or `make test` can be the first command in a fresh clone.
SHELL := bash
MAKEFLAGS += --no-print-directory

ifneq ($(words $(CURDIR)),1)
$(error the path of this checkout has a space in it, which make and ESPnet's scripts cannot handle: move it)
endif

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHON
PROCESSES ?= 2

.PHONY: help install demo test attack bench docs lint clean distclean

help:  ## print this list
	@echo "make TARGET [PYTHON=/path/to/python3.12]"
	@awk -F ':.*##' '/^[a-z]+:.*##/ {printf "  %-10s%s\n", $$1, $$2}' Makefile

install:  ## install everything into .venv, as other targets do first (7 GB, some minutes)
	@tools/install.sh

demo: install  ## recipe of spoken digits: teacher, student, distilled student, export, table and plots (11 minutes on 2 cores)
	@cd egs/digits/kd1 && ./run.sh $(ARGS)

test: install  ## run the tests but those marked long, about 10 minutes (ARGS="-m 'not slow'" for fewer, ARGS="-m ''" for all, ARGS="-k name")
	@python -m pytest -rs --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder -m "not long" test $(ARGS)

attack: install  ## try damaged inputs, stores, archives, audio, and kills at random moments (ARGS="fuzz kills" for parts)
	@python test/attack $(ARGS)

bench: install  ## measure time and memory of the parts that must be fast (ARGS="online_teacher" for one of them)
	@python -m bench $(ARGS)

docs: install  ## build the documentation: tables from the code, then site/index.html
	@python tools/doc_tables.py
	@NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict
	@echo "docs: site/index.html"

lint: install  ## run ruff, mypy, bash -n and shellcheck
	@tools/lint.sh

clean:  ## remove files of tests and linters; keep data, experiments and .venv
	rm -rf build dist site espnet_kd.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well
	rm -rf .venv .venv.lock
