#!/bin/bash
# sbatch slurm/pretrain_tokenizer.sh yaml_configs/pretrain_tokenizer/paper_4level.yaml data.video_shards=shards/
# Further section.key=value words override the run's settings; sbatch options (--nodes, --time …) override the lines below.
#SBATCH --job-name=pretrain-tokenizer
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --mem=0 --exclusive
#SBATCH --time=24:00:00 --requeue --open-mode=append --signal=B:USR1@600
#SBATCH --output=slurm/logs/pretrain-tokenizer-%j.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
source "$SLURM_SUBMIT_DIR/slurm/launch.sh"
launch pretrain.video_tokenizer "$@"
