#!/bin/bash
# sbatch slurm/text_tokenizer.sh tokens/manifest.json text.model --vocab-size 32000
# Trains the text tokenizer of a language model on the captions of one manifest or more, on CPUs.
#SBATCH --job-name=text-tokenizer
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task=8
#SBATCH --time=04:00:00 --requeue --open-mode=append
#SBATCH --output=slurm/logs/%x-%j.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
"${SRUN[@]}" "${PREFIX[@]}" hitvideo data text-tokenizer "$@"
