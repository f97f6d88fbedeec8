# make demo   see it work: train a video tokenizer, tokenize, pretrain on two processes, generate, report (about 12 minutes)
# make test   every test that this machine can run, and lint;   make test-fast   the quick ones
# Each sets up .venv/ by itself; it needs Python ≥ 3.11, make and a compiler.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO := demo
EXPERIMENT := runs/levels
OVER ?=# overrides for the demo's programs, as in make demo OVER="train.steps=50"

# DeepSpeed must not build CUDA ops, nor look for a GPU's runtime to do so.
export DS_BUILD_OPS := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: venv demo slurm test test-fast lint bench experiment-levels clean

venv: $(READY)

# torch first and pinned: any other package's open range would pull gigabytes of CUDA on a CPU machine.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $@

# A real Slurm cluster for the tests, where this is root on Debian; elsewhere they skip and say what is missing.
SLURM := slurmctld slurmd slurm-client munge iproute2
slurm:
	command -v slurmctld >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM) >/dev/null; } || true

test: $(READY) lint slurm
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-fast: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	for bench in benchmarks/[a-z]*.py; do $(BIN)/python -m $$(echo $${bench%.py} | tr / .) || exit 1; done

# The whole path, by the commands a user types. Run it again and it goes on where it stopped; `rm -r demo` starts over.
demo: $(READY)
	test -d $(DEMO)/shards || $(BIN)/hitvideo data moving-shapes $(DEMO)/shards --num 4000 --seed 1 --objects 1
	$(BIN)/torchrun --nproc-per-node 2 -m pretrain.video_tokenizer yaml_configs/pretrain_tokenizer/tiny.yaml run.root=$(DEMO)/runs \
	    data.video_shards=$(DEMO)/shards $(OVER)
	for task in 0 1; do OMP_NUM_THREADS=1 $(BIN)/python -m tokenize_shards yaml_configs/tokenize_shards/tiny.yaml \
	    video_tokenizer.weights=$(DEMO)/runs/tiny-tokenizer/weights data.video_shards=$(DEMO)/shards data.out=$(DEMO)/tokens \
	    run.root=$(DEMO)/runs task.index=$$task task.count=2 & tasks="$$tasks $$!"; done; for task in $$tasks; do wait $$task || exit 1; done
	$(BIN)/torchrun --nproc-per-node 2 -m pretrain yaml_configs/pretrain/tiny.yaml run.root=$(DEMO)/runs \
	    data.manifest=$(DEMO)/tokens/manifest.json $(OVER)
	$(BIN)/hitvideo generate --run $(DEMO)/runs/tiny-llm --guidance 3 --temperature 0.7 \
	    --prompt "a red circle moves right on a black background"
	$(BIN)/hitvideo evaluate reconstruction --run $(DEMO)/runs/tiny-tokenizer --video-shards $(DEMO)/shards
	$(BIN)/hitvideo evaluate captions --run $(DEMO)/runs/tiny-llm --num 96 --seed 2 \
	    --guidance 3 --temperature 0.7
	$(BIN)/hitvideo report $(DEMO)/runs/tiny-tokenizer $(DEMO)/runs/tiny-llm

# The tokenizer's experiments, on moving shapes and on your own captioned clips (a folder, or a TSV with file and caption), and
# their tables in README.md: make experiment-levels [CLIPS=SRC]. About two hours on two cores; run it again and it goes on.
experiment-levels: $(READY)
	$(BIN)/python experiments/levels.py $(EXPERIMENT) shapes
	test -z "$(CLIPS)" || $(BIN)/python experiments/levels.py $(EXPERIMENT) clips "$(CLIPS)"
	$(BIN)/python experiments/levels.py $(EXPERIMENT) tables

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
