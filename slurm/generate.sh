#!/bin/bash
# sbatch slurm/generate.sh --run runs/my-7b --prompt "a red circle moves right" --out out.mp4
#SBATCH --job-name=generate
#SBATCH --nodes=1 --ntasks=1 --gpus-per-node=1 --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --output=slurm/logs/%x-%j.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
"${SRUN[@]}" "${PREFIX[@]}" hitvideo generate "$@"
