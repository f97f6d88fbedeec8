#!/bin/bash
# sbatch --array=0-15%8 slurm/tokenize_shards.sh yaml_configs/tokenize_shards/paper_4level.yaml video_tokenizer.weights=… data.video_shards=… data.out=…
# Runs at most 8 of the 16 tasks at a time. If tasks are lost, submit the same line again: it does what is missing.
# A task whose node fails the pre-flight is requeued without it. On CPUs: sbatch --gpus-per-node=0 …
#SBATCH --job-name=tokenize
#SBATCH --nodes=1 --ntasks=1 --gpus-per-node=1 --cpus-per-task=8
#SBATCH --time=12:00:00 --requeue --open-mode=append
#SBATCH --output=slurm/logs/%x-%A_%a.out
set -uo pipefail
source "$SLURM_SUBMIT_DIR/slurm/env.sh"
source "$SLURM_SUBMIT_DIR/slurm/launch.sh"
nodes=$SLURM_JOB_NUM_NODES asked=0 logs=$LOGS/tokenize-$JOB-r$RESTARTS HITVIDEO_FAULTS=$LOGS/tokenize-$JOB-r$RESTARTS
mkdir -p "$HITVIDEO_FAULTS" || exit                         # the pre-flight's reports
echo requeue > "$HITVIDEO_FAULTS/chain"
if [ "$GPUS" = 0 ]; then echo cpu > "$HITVIDEO_FAULTS/devices"; fi
find_fit
if [ ${#fit[@]} -lt "$nodes" ]; then
  [ "$RESTARTS" -lt "${MOST_RESTARTS:-20}" ] || exit 1
  again "$(attempt exclude "$HITVIDEO_FAULTS" "${hosts[@]}")"
fi
rm -r "$HITVIDEO_FAULTS"
"${SRUN[@]}" "${PREFIX[@]}" python -m tokenize_shards "$@"
