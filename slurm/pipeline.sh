#!/bin/bash
# bash slurm/pipeline.sh WORK SHARDS PROMPT [TOKENIZER.yaml TOKENIZE.yaml PRETRAIN.yaml]
#
# From video shards to a generated video: submits tokenizer training, the tokenization array, pretraining and generation, each
# waiting for the one before. A job whose predecessor failed is cancelled. Everything is written below WORK.
# SBATCH_OPTIONS: words for every sbatch (partition, account, size); TASKS: elements of the array (8, of which 4 at a time).
set -euo pipefail
work=${1:?WORK: a folder for runs, tokens and the video}
shards=${2:?SHARDS: a folder of video shards}
prompt=${3:?PROMPT: what the video is to show}
tokenizer=${4:-yaml_configs/pretrain_tokenizer/paper_4level.yaml}
tokenize=${5:-yaml_configs/tokenize_shards/paper_4level.yaml}
pretrain=${6:-yaml_configs/pretrain/7b.yaml}
cd "$(dirname "$0")/.."
[ -f .venv/bin/activate ] && source .venv/bin/activate
read -ra options <<< "${SBATCH_OPTIONS:-}"

# Prints the run directory of a RUN.yaml with overrides; wrong settings are one line and end the script.
run_of() {
  python -c 'from hitvideo.runs.program import guarded; from hitvideo.settings.programs import load_settings
guarded(lambda words: print(load_settings(words[0], words[1:]).run.directory))' "$@"
}
submit() { local after=$1; shift; sbatch --parsable --kill-on-invalid-dep=yes ${after:+--dependency=afterok:$after} "${options[@]}" "$@"; }

weights=$(run_of "$tokenizer" run.root="$work/runs")/weights          # a wrong config ends here, before anything is queued
model=$(run_of "$pretrain" run.root="$work/runs")
run_of "$tokenize" > /dev/null

first=$(submit "" slurm/pretrain_tokenizer.sh "$tokenizer" run.root="$work/runs" data.video_shards="$shards")
second=$(submit "$first" --array="0-$((${TASKS:-8} - 1))%4" slurm/tokenize_shards.sh "$tokenize" video_tokenizer.weights="$weights" \
  data.video_shards="$shards" data.out="$work/tokens")
third=$(submit "$second" slurm/pretrain.sh "$pretrain" run.root="$work/runs" data.manifest="$work/tokens/manifest.json")
fourth=$(submit "$third" slurm/generate.sh --run "$model" --prompt "$prompt" --out "$work/video.mp4")
echo "tokenizer $first, tokenize $second, pretrain $third, generate $fourth: $work/video.mp4 when all are done"
