# `make demo` and `make test` set up all that they need, as root or through sudo, and only what is missing.

SHELL := /bin/bash
VENV := .venv
PYTHON_HERE := $(VENV)/bin/python
ENVIRONMENT := $(VENV)/.complete
PACKAGER := build/packager
WORKFLOWS := .github/workflows/*.yml .github/dependabot.yml conftest_examples/ci/.github/workflows/*.yml
# Twice as many as there are processors: a third of its time a test waits, for a guest or for the end of a process.
WORKERS ?= $(shell expr 2 \* $$(nproc))

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

.PHONY: demo
demo: $(ENVIRONMENT) ## Run an example project on a Debian guest, and prove that its image did not change
	@.ci/demo

.PHONY: test
test: lint docs ## Run what the continuous integration runs: lint, types, docs, tests (WORKERS=2, ARGUMENTS='-k console')
	$(PYTHON_HERE) -m tests.guests all
	$(PYTHON_HERE) -m pytest --numprocesses=$(WORKERS) --maxprocesses=8 --dist=loadfile --no-loadscope-reorder --durations=15 $(ARGUMENTS)

.PHONY: lint
lint: $(ENVIRONMENT) ## Check the style, the types and the workflows
	$(PYTHON_HERE) -m ruff check
	$(PYTHON_HERE) -m ruff format --check
	$(PYTHON_HERE) -m mypy
	$(VENV)/bin/jactionlint --no-hints $(WORKFLOWS)

.PHONY: bench
bench: $(ENVIRONMENT) ## Measure, and print tables
	@$(PYTHON_HERE) -m benchmarks

.PHONY: docs
docs: $(ENVIRONMENT) ## Build the site of the documentation into build/docs; every warning is an error
	$(PYTHON_HERE) -m sphinx --quiet --nitpicky --fail-on-warning --keep-going docs build/docs
	@echo "The site is build/docs/index.html"

.PHONY: package
package: $(PACKAGER)/.complete ## Build the wheel and the source distribution in dist, and check them
	rm -rf dist
	$(PACKAGER)/bin/python -m build
	$(PACKAGER)/bin/python -m twine check --strict dist/*

.PHONY: packages
packages: ## Install the packages of the distribution that are missing
	@.ci/install-packages

.PHONY: clean
clean: ## Remove what can be made again, but for the guests (in ~/.cache, or $READONLY_VM_TEST_GUESTS)
	rm -rf $(VENV) build dist test-results .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .pytest_cache -prune -exec rm -rf {} +

$(ENVIRONMENT): pyproject.toml | packages
	"$$(.ci/find-python)" -m venv $(VENV)
	$(PYTHON_HERE) -m pip install --quiet --upgrade pip
	$(PYTHON_HERE) -m pip install --quiet --editable '.[images]' --group dev
	@touch $@

# Apart, as it needs neither the plugin nor anything of the system's.
$(PACKAGER)/.complete: pyproject.toml
	"$$(.ci/find-python)" -m venv $(PACKAGER)
	$(PACKAGER)/bin/python -m pip install --quiet --upgrade pip
	$(PACKAGER)/bin/python -m pip install --quiet --group package
	@touch $@
