# make demo   train a video tokenizer, tokenize, pretrain on two processes, generate and report (about 15 minutes on two cores)
# make test   every test that this machine can run, and lint;   make test-fast   the quick ones;   make test-gpu   those for GPUs;
# make test-versions   the quick ones with the lowest and the newest versions of what this depends on
# Each sets up .venv/ by itself. Needed: Python ≥ 3.11, make and a C++ compiler.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO := demo
OVER ?=# overrides for the demo's training programs: make demo OVER="train.steps=50"

# Keeps DeepSpeed from building CUDA ops, and from looking for a GPU runtime to build them with.
export DS_BUILD_OPS := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The tests fork ranks, which cannot use CUDA; those marked `gpu` start processes of their own.
ON_CPU := CUDA_VISIBLE_DEVICES=

.PHONY: venv demo slurm test test-fast test-gpu test-versions lint reference wheel bench showcase experiment-levels clean

venv: $(READY)

# Install the pinned torch first: another package's open version range would pull gigabytes of CUDA onto a CPU machine.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $@

# Installs Slurm for the cluster tests if this is root on Debian. Otherwise those tests skip and name what is missing.
SLURM := slurmctld slurmd slurm-client munge iproute2
slurm:
	command -v slurmctld >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM) >/dev/null; } || true

test: $(READY) lint slurm
	$(ON_CPU) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-fast: $(READY)
	$(ON_CPU) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not slow"

# On a machine with GPUs and the CUDA build of torch in .venv/.
test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

# The quick tests with the lowest versions that pyproject.toml allows, then with the newest there are, each in an environment of
# its own, which takes some gigabytes: make test-versions [TESTS="tests/runs tests/sequence"]
TESTS ?= tests
test-versions: .venv.lowest/.ready .venv.newest/.ready
	for each in lowest newest; do $(ON_CPU) .venv.$$each/bin/python -m pytest -m "not slow" $(TESTS) || exit 1; done

.venv.%/.ready: pyproject.toml tests/lowest.py
	test -x .venv.$*/bin/python || $(PYTHON) -m venv .venv.$*
	$(if $(filter lowest,$*),$(PYTHON) tests/lowest.py,true) > .venv.$*/constraints.txt
	.venv.$*/bin/pip install --quiet --constraint .venv.$*/constraints.txt torch
	.venv.$*/bin/pip install --quiet --constraint .venv.$*/constraints.txt --editable .[dev]
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

# The pages of docs/reference/ are made from the code; a test finds those that are out of date.
reference: $(READY)
	$(BIN)/python -m hitvideo.commands.reference docs/reference

# A wheel in dist/, which holds yaml_configs/ and the commit.
wheel: $(READY)
	rm -rf build
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

bench: $(READY)
	for bench in benchmarks/[a-z]*.py; do $(BIN)/python -m $$(echo $${bench%.py} | tr / .) || exit 1; done

# The whole path, with the commands a user types. A second call continues where the first stopped; `rm -r demo` starts over.
demo: $(READY)
	test -f $(DEMO)/shards/packed.json || $(BIN)/hitvideo data moving-shapes $(DEMO)/shards --num 8000 --seed 1 --objects 1
	$(BIN)/torchrun --nproc-per-node 2 -m pretrain.video_tokenizer yaml_configs/pretrain_tokenizer/tiny.yaml run.root=$(DEMO)/runs \
	    data.video_shards=$(DEMO)/shards $(OVER)
	for task in 0 1; do OMP_NUM_THREADS=1 $(BIN)/python -m tokenize_shards yaml_configs/tokenize_shards/tiny.yaml \
	    video_tokenizer.weights=$(DEMO)/runs/tiny-tokenizer/weights data.video_shards=$(DEMO)/shards data.out=$(DEMO)/tokens \
	    run.root=$(DEMO)/runs task.index=$$task task.count=2 & tasks="$$tasks $$!"; done; for task in $$tasks; do wait $$task || exit 1; done
	$(BIN)/torchrun --nproc-per-node 2 -m pretrain yaml_configs/pretrain/tiny.yaml run.root=$(DEMO)/runs \
	    data.manifest=$(DEMO)/tokens/manifest.json $(OVER)
	$(BIN)/hitvideo generate --run $(DEMO)/runs/tiny-llm --prompt "a red circle moves right on a black background"
	$(BIN)/hitvideo evaluate reconstruction --run $(DEMO)/runs/tiny-tokenizer --video-shards $(DEMO)/shards
	$(BIN)/hitvideo evaluate meaning --run $(DEMO)/runs/tiny-tokenizer
	$(BIN)/hitvideo evaluate captions --run $(DEMO)/runs/tiny-llm
	$(BIN)/hitvideo report $(DEMO)/runs/tiny-tokenizer $(DEMO)/runs/tiny-llm

# The demo's model as it ships with the package (`hitvideo generate --run showcase`), and README's picture of what it draws.
showcase: demo
	rm -rf hitvideo/showcase
	$(BIN)/hitvideo export $(DEMO)/runs/tiny-llm hitvideo/showcase --names run --dtype bf16
	$(BIN)/python -m experiments.animation showcase docs/demo.gif

# Video tokenizer experiments on moving shapes and on your own captioned clips (a folder, or a TSV with columns file and caption);
# writes the tables of experiments/RESULTS.md. make experiment-levels [CLIPS=SRC] takes hours on two cores and continues if it is
# stopped. `python -m experiments --list` has more.
experiment-levels: $(READY)
	for name in levels temporal; do $(BIN)/python -m experiments $$name --jobs 2 $(if $(CLIPS),--clips "$(CLIPS)") || exit 1; done

clean:
	rm -rf .venv .venv.lowest .venv.newest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
