#!/bin/bash
# bash slurm/pipeline.sh WORK SHARDS PROMPT [VIDEO_TOKENIZER.yaml TOKENIZE.yaml PRETRAIN.yaml]
#
# Go from video shards to a generated video: submit video tokenizer training, the tokenization array, pretraining and
# generation. Each waits for the one before; if that fails, it is cancelled. All output goes below WORK.
# SBATCH_OPTIONS: options for each sbatch (partition, account, size). TASKS: tasks in the array (default 8; 4 run at a time).
set -euo pipefail
work=${1:?WORK: a folder for runs, tokens and the video}
shards=${2:?SHARDS: a folder of video shards}
prompt=${3:?PROMPT: what the video should show}
video_tokenizer=${4:-yaml_configs/pretrain_tokenizer/paper_4level.yaml}
tokenize=${5:-yaml_configs/tokenize_shards/paper_4level.yaml}
pretrain=${6:-yaml_configs/pretrain/7b.yaml}
cd "$(dirname "$0")/.."
[ -f .venv/bin/activate ] && source .venv/bin/activate
read -ra options <<< "${SBATCH_OPTIONS:-}"

# Print the run directory of a RUN.yaml with overrides. Wrong settings print one line and end the script.
run_of() {
  python -c 'from hitvideo.runs.program import guarded; from hitvideo.settings.programs import load_settings
guarded(lambda words: print(load_settings(words[0], words[1:]).run.directory))' "$@"
}
submit() { local after=$1; shift; sbatch --parsable --kill-on-invalid-dep=yes ${after:+--dependency=afterok:$after} "${options[@]}" "$@"; }

weights=$(run_of "$video_tokenizer" run.root="$work/runs")/weights          # wrong settings end the script here, before any job is queued
model=$(run_of "$pretrain" run.root="$work/runs")
run_of "$tokenize" > /dev/null

first=$(submit "" slurm/pretrain_tokenizer.sh "$video_tokenizer" run.root="$work/runs" data.video_shards="$shards")
second=$(submit "$first" --array="0-$((${TASKS:-8} - 1))%4" slurm/tokenize_shards.sh "$tokenize" video_tokenizer.weights="$weights" \
  data.video_shards="$shards" data.out="$work/tokens")
third=$(submit "$second" slurm/pretrain.sh "$pretrain" run.root="$work/runs" data.manifest="$work/tokens/manifest.json")
fourth=$(submit "$third" slurm/generate.sh --run "$model" --prompt "$prompt" --out "$work/video.mp4")
echo "submitted: video tokenizer $first, tokenize $second, pretrain $third, generate $fourth, which writes $work/video.mp4"
