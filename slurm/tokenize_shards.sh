#!/bin/bash
# sbatch --array=0-15 slurm/tokenize_shards.sh yaml_configs/tokenize_shards/paper_4level.yaml video_tokenizer.weights=… data.video_shards=… data.out=…
# Each element takes its share of the shards. Submit the same line again after elements were lost: it does what is missing.
#SBATCH --job-name=tokenize
#SBATCH --nodes=1 --ntasks=1 --gpus-per-node=1 --cpus-per-task=8
#SBATCH --time=12:00:00 --requeue --open-mode=append
#SBATCH --output=%x-%A_%a.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" python -m tokenize_shards "$@"
