PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check

# Where it is set, each of the hundreds of processes of the tests would compile this package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help env train test sweep soak fuzz rounds machine ray gguf sanitize a64fx measures licences audit check format clean

help: ## list what can be made (what `make` alone does)
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/.installed ## make .venv and install the package in it, with its kernels

# What training and `make check` need. The kernels are built by the environment's own tools, so that
# a second installation builds only what has changed; what builds them stands in pyproject.toml too.
$(VENV)/.installed: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) "jaxlib>=0.10.2,<0.12" "scikit-build-core>=0.11" "cmake>=3.21" ninja wheel
	$(INSTALL) --no-build-isolation -e ".[dev]"
	touch $@

# What the tests hold us to (PyTorch and transformers): large, so only they install it.
$(VENV)/.installed-oracles: $(VENV)/.installed
	$(INSTALL) --no-build-isolation -e ".[dev,test,data,serve]"
	touch $@

train: env ## train the recipe `tiny` on the built-in corpus, to runs/tiny/report.html
	$(RUN) launch/train.py tiny

# An older major version beside it, with all that it needs; a test runs one program under it.
$(VENV)/transformers4: $(VENV)/.installed-oracles
	$(INSTALL) --upgrade --target $@ "transformers==4.57.1"
	touch $@

# All tests, 12 to 22 minutes on 2 cores. `make test FAST=1` takes 2 to 4 and leaves out those
# marked `slow`: whole trainings and restarts, meshes of several devices or processes held to one,
# both versions of transformers, the notebooks, benchmarks, and the longest tests of kernels.
EVERYDAY := $(if $(FAST),-m "not slow and not a64fx and not llama_cpp and not sanitize and not machine and not ray")
test: $(VENV)/.installed-oracles $(if $(FAST),,$(VENV)/transformers4) ## run the tests; with FAST=1 those of everyday work, in minutes
	$(RUN) -m pytest $(EVERYDAY) --numprocesses auto --dist loadfile --no-loadscope-reorder

# Combinations that nobody has tried, held against one device: `make sweep SECONDS=3600 SEED=7`.
sweep: $(VENV)/.installed-oracles ## hold random runs on random meshes against one device
	$(RUN) tests/training/sweep.py --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

# Runs killed at any moment and held to one that nothing befell: `make soak SOAK_SECONDS=1800 SEED=7`.
soak: $(VENV)/.installed-oracles ## kill runs of one and of four processes, for half an hour
	$(RUN) tests/faults/soak.py --seconds $(or $(SOAK_SECONDS),1800) $(if $(SEED),--seed $(SEED))

# Broken files for everything that reads one: `make fuzz FUZZ_SECONDS=3600 SEED=7`.
fuzz: $(VENV)/.installed-oracles ## hand broken files to every reader, for ten minutes
	$(RUN) tests/faults/fuzz.py --seconds $(or $(FUZZ_SECONDS),600) $(if $(SEED),--seed $(SEED))

# Collectives of random sizes, axes and types: `make rounds ROUNDS=1000`.
rounds: env ## hold random sums and gathers between four processes to XLA's
	JAX_PLATFORMS=cpu $(RUN) launch/cluster/local.py -n 4 -- $(RUN) tests/collectives/torus_program.py rounds $(or $(ROUNDS),1000)

# The real step of Fugaku-LLM, compiled for the whole machine it was trained on.
machine: $(VENV)/.installed-oracles ## compile the step of Fugaku-LLM for 13,824 devices
	$(RUN) -m pytest -m machine

# Ray is 80 MB to fetch and 300 MB installed, so that the other tests do without it.
ray: $(VENV)/.installed-oracles ## prepare a corpus on a head of Ray on this machine
	$(INSTALL) ray
	$(RUN) -m pytest tests/corpora -m ray

# llama.cpp is compiled for this machine, which takes ten minutes of two cores.
gguf: $(VENV)/.installed-oracles ## hold GGUF files to what llama.cpp makes of them
	$(INSTALL) llama-cpp-python
	$(RUN) -m pytest tests/interop tests/benchmarks -m llama_cpp

# The tests of the native kernels once more, compiled to refuse bad accesses and undefined behaviour.
sanitize: $(VENV)/.installed-oracles ## run the kernels' tests under sanitizers (most of an hour)
	$(RUN) tests/kernels/sanitize.py --numprocesses auto --dist loadfile

# The same code on an emulated A64FX, set up in the user's cache by the first call.
a64fx: $(VENV)/.installed-oracles ## run the tests of an emulated A64FX, set up by the first call
	$(RUN) tests/a64fx/setup.py
	$(RUN) tests/a64fx/libraries.py
	$(RUN) -m pytest tests/a64fx -m a64fx --numprocesses auto

measures: env ## count what a stranger reads for one step, and what no signature tells
	$(RUN) tests/measures/measures.py

licences: env ## write docs/licences.md: what is installed, with version and licence
	$(RUN) tests/faults/licences.py

# Where pip-audit cannot be installed, what follows says so.
audit: env ## ask a data base of vulnerabilities for all that is installed
	$(INSTALL) --upgrade --target $(VENV)/pip-audit pip-audit || true
	$(RUN) tests/faults/audit.py

check: env ## lint, formatting and types: ruff and pyrefly
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyrefly check

format: env ## mend what ruff can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## remove the environment and what was built
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
