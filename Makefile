# Everything runs in .venv, from the pinned versions of requirements.lock.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Programs compiled once, small ones too, serve every worker, the processes that tests start, and the next run; so does
# Python's bytecode, whatever the environment says of it.
CACHE := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	PYTHONDONTWRITEBYTECODE=
# Those that the tests need; whatever else is installed for pytest would be imported by every worker.
PLUGINS := --disable-plugin-autoload -p xdist -p hypothesispytest
WORKERS ?= 2
# Compiling takes most of the tests' time. Without optimisation, with XLA's older code generator and each program in one
# piece (by default up to 32 are compiled side by side, each with LLVM's fixed costs) it takes a fraction, and a tenth less
# without passes and annotations that only speed up what is compiled; every test must pass either way, and
# `make test-slow` compiles as users do.
QUICK := XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false \
	--xla_cpu_parallel_codegen_split_count=1 --xla_llvm_disable_expensive_passes=true \
	--xla_llvm_enable_noalias_metadata=false --xla_llvm_enable_alias_scope_metadata=false \
	--xla_disable_hlo_passes=simplify-while-loops,while-loop-invariant-code-motion,reshape-mover,$\
	tree_reduction_rewriter,constant_folding,batch-dot-simplification,simplify-conditional,cpu-parallel-task-assigner"

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-slow lint lock release-check clean

help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## Makes .venv; does nothing where it is up to date

$(STAMP): requirements.lock pyproject.toml $(wildcard native/*.* native/*/*.*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# The search in C++ is optional: without a compiler, or where it does not compile, XLA searches.
	if command -v $${CXX:-c++} > /dev/null; then \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./native \
	|| echo "native/ could not be compiled; nothing else needs it"; fi
	touch $(STAMP)

demo: install  ## Trains four agents, with and without a memory, in a minute; a table, pictures, a film
	$(BIN)/python -m experiments.demo

docs: install  ## Builds the site of the documentation into site/; fails where a link leads nowhere
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.lock
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(CURDIR) $(BIN)/python -m mkdocs build --strict --quiet

lint: install  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint  ## Style, types, and every test that takes less than minutes
	$(CACHE) $(QUICK) $(BIN)/python -m pytest $(PLUGINS) -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-slow: install  ## The long tests alone
	$(CACHE) $(BIN)/python -m pytest $(PLUGINS) -n $(WORKERS) --dist loadfile -o faulthandler_timeout=0 -m slow

lock:  ## Rewrites requirements.lock from the newest versions that pyproject.toml allows
	rm -rf .cache/lock && $(PYTHON) -m venv .cache/lock
	.cache/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,data,llm]'
	( sed -n '/^#/p' requirements.lock; \
	  .cache/lock/bin/python -m pip freeze --exclude memjax --exclude setuptools ) > .cache/requirements.lock
	mv .cache/requirements.lock requirements.lock

release-check: install  ## Builds wheel and sdist, installs each in an empty environment, and tries them there
	$(BIN)/python tests/release_check.py

clean:  ## Removes what the other targets made, .venv included
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
