#!/bin/bash
# sbatch slurm/pretrain.sh RUN.yaml data.manifest=tokens/manifest.json
# Starts any run of `python -m pretrain`; pretrain_{1b,3b,7b,13b}.sh start one each. sbatch options override the lines below.
#SBATCH --job-name=pretrain
#SBATCH --nodes=1 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=96 --exclusive
#SBATCH --time=24:00:00 --requeue --open-mode=append --signal=B:USR1@600
#SBATCH --output=slurm/logs/%x-%j.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
source "$SLURM_SUBMIT_DIR/slurm/launch.sh"
launch pretrain "$@"
