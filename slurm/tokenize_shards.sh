#!/bin/bash
# sbatch --array=0-15%8 slurm/tokenize_shards.sh yaml_configs/tokenize_shards/paper_4level.yaml video_tokenizer.weights=… data.video_shards=… data.out=…
# Runs at most 8 of the 16 tasks at a time. If tasks are lost, submit the same line again: it does what is missing.
#SBATCH --job-name=tokenize
#SBATCH --nodes=1 --ntasks=1 --gpus-per-node=1 --cpus-per-task=8
#SBATCH --time=12:00:00 --requeue --open-mode=append
#SBATCH --output=slurm/logs/%x-%A_%a.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
"${SRUN[@]}" "${PREFIX[@]}" python -m tokenize_shards "$@"
