#!/bin/bash
# sbatch slurm/smoke.sh
# The first job on a cluster, ten minutes at most: checks two nodes, trains a small video tokenizer on all their GPUs, ends, resumes it
# from its checkpoint, and prints a verdict. Without GPUs: sbatch --gpus-per-node=0 slurm/smoke.sh cluster.devices=cpu
#SBATCH --job-name=smoke
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --mem=0 --exclusive
#SBATCH --time=00:10:00 --no-requeue --open-mode=append
#SBATCH --output=slurm/logs/smoke-%j.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
source "$SLURM_SUBMIT_DIR/slurm/launch.sh"
folder=$(mktemp -d "$LOGS/smoke-$SLURM_JOB_ID-XXXX") || exit   # every node sees the checkout; kept if something failed
nodes=$((SLURM_JOB_NUM_NODES - ${SPARES:-0}))
export MOST_RESTARTS=0                                      # a fault ends it
"${PREFIX[@]}" hitvideo data moving-shapes "$folder/shards" --num 128 --per-shard 32 || exit

# Train up to step $1 and return.
train() {
  (launch pretrain.video_tokenizer yaml_configs/pretrain_tokenizer/tiny.yaml run.root="$folder" run.name=run \
    data.video_shards="$folder/shards" data.validation_clips=16 tracking.enabled=false train.steps="$1" train.warmup_steps=2 \
    train.micro_batch=1 train.global_batch=$((nodes * PER_NODE)) train.log_every=1 train.validation_batches=0 \
    train.dtype=bf16 checkpoint.every=5 cluster.devices=gpu "${@:2}")
}
train 10 "$@" && cp "$folder/run/metrics.jsonl" "$folder/before.jsonl" && rm "$folder/run/DONE" && train 20 "$@"
"${PREFIX[@]}" python -m hitvideo.cluster.smoke "$folder" "$nodes" "$PER_NODE" || exit
rm -r "$folder"
