#!/bin/bash
# sbatch slurm/pretrain.sh RUN.yaml data.manifest=tokens/manifest.json
# Any run of `python -m pretrain`; pretrain_1b.sh … pretrain_13b.sh name theirs. --nodes, --time … of sbatch override the lines below.
#SBATCH --job-name=pretrain
#SBATCH --nodes=1 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=96 --exclusive
#SBATCH --time=24:00:00 --requeue --open-mode=append --signal=B:USR1@600
#SBATCH --output=slurm/logs/%x-%j.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
source "$SLURM_SUBMIT_DIR/slurm/launch.sh"
launch pretrain "$@"
