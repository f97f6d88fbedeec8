#!/bin/bash
# sbatch slurm/pretrain_7b.sh data.manifest=tokens/manifest.json run.name=my-7b
# Further section.key=value words override the run's settings; sbatch options (--nodes, --time …) override the lines below.
# If your site has no --gpus-per-node: sbatch --gpus-per-node=0 --gres=gpu:8 …
#SBATCH --job-name=pretrain-7b
#SBATCH --nodes=16 --ntasks-per-node=1 --gpus-per-node=8 --mem=0 --exclusive
#SBATCH --time=24:00:00 --requeue --open-mode=append --signal=B:USR1@600
#SBATCH --output=slurm/logs/pretrain-7b-%j.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
source "$SLURM_SUBMIT_DIR/slurm/launch.sh"
launch pretrain yaml_configs/pretrain/7b.yaml "$@"
