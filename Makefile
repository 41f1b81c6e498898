# Everything a newcomer, a developer and CI run. Each target sets up what it needs in .venv by itself.

# One more than processors: tests wait for servers half of the time.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
ARGS ?=
PYTHON ?=
# For an empty environment, as of a service. The tests' PostgreSQL needs useradd, which is in sbin.
PATH ?= /usr/local/bin:/usr/bin:/bin
PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export PYTHON PATH

BIN := .venv/bin
RUNTIME := .venv/runtime-installed
TOOLS := .venv/tools-installed

# Dagster's own tool, with an instance of its own: dagster.yaml is that of production.
DG := echo 'telemetry: {enabled: false}' >.venv/dagster.yaml && DAGSTER_HOME=$(CURDIR)/.venv $(BIN)/dg

.PHONY: help demo dev test lint format lock docs screenshots bench soak clean

help:
	@echo "make demo    bill four months of a made-up platform at a stand-in for Stripe, and see what came of it"
	@echo "make dev     the same, and serve all its pages: Dagster, the overview, a user's page, the stand-in's"
	@echo "make test    run the tests (ARGS='-k ledger' for some, WORKERS=4 for more at once)"
	@echo "make lint    check style, types and imports"
	@echo "make format  put the sources into the house style"
	@echo "make lock    pin the dependencies again (ARGS=--upgrade for their newest versions)"
	@echo "make docs    build the documentation site into site/, and check its links"
	@echo "make screenshots  take the pictures of the docs from the demo again"
	@echo "make soak    live through a year of 2,000 users with faults and kills (SOAK_MONTHS, SOAK_USERS, SOAK_SEED)"
	@echo "make bench   measure it against its floors (ARGS=--full for the sizes of the targets)"
	@echo "make clean   remove all that the other targets made here"
	@echo "PYTHON=/path/to/python3.12 names the Python to use; it needs to be 3.11 or newer."

demo: $(RUNTIME)
	@$(BIN)/python -m spell_billing.demo $(ARGS)

dev: $(RUNTIME)
	@$(BIN)/python -m spell_billing.demo --dev $(ARGS)

# loadfile: tests of one file share what the file starts. The tests' conftest.py puts the longest files first.
test: $(TOOLS)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(TOOLS)
	@$(BIN)/python -m ruff check --quiet .
	@$(BIN)/python -m ruff format --check --quiet .
	@$(BIN)/python -m mypy --no-error-summary
	@$(BIN)/python -m mypy --no-error-summary examples
	@$(BIN)/python -m mypy --no-error-summary benchmarks
	@$(BIN)/lint-imports --no-logo
	@$(DG) check defs >/dev/null

format: $(TOOLS)
	@$(BIN)/python -m ruff check --fix-only --quiet .
	@$(BIN)/python -m ruff format --quiet .

lock: $(TOOLS)
	@scripts/lock $(ARGS)

docs: $(TOOLS)
	@$(BIN)/zensical build --clean --strict --config-file zensical.toml
	@$(BIN)/python -m pytest -q -n 0 spell_billing_tests/test_docs.py

screenshots: $(TOOLS)
	@$(BIN)/python scripts/screenshots.py

bench: $(TOOLS)
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(TOOLS)
	@SOAK_MONTHS=$${SOAK_MONTHS:-12} SOAK_USERS=$${SOAK_USERS:-2000} $(BIN)/python -m pytest -n 0 -q --timeout=0 \
		--log-cli-level=WARNING spell_billing_tests/payments/test_soak.py $(ARGS)

clean:
	@rm -rf .venv .demo build site *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements.lock pyproject.toml scripts/install scripts/installer.lock
	@scripts/install requirements.lock
	@touch $@

# The tools' lock holds the runtime's packages too, in the same versions.
$(TOOLS): requirements-dev.lock pyproject.toml scripts/install scripts/installer.lock
	@scripts/install requirements-dev.lock
	@touch $@ $(RUNTIME)
