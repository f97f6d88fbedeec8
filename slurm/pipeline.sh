#!/bin/bash
# bash slurm/pipeline.sh WORK SHARDS PROMPT [VIDEO_TOKENIZER.yaml TOKENIZE.yaml PRETRAIN.yaml]
#
# Go from video shards to a generated video: submit video tokenizer training, the tokenization array, text tokenizer training,
# pretraining and generation. Each waits for the one before; if that fails, it is cancelled. All output goes below WORK.
# The text tokenizer is trained if PRETRAIN.yaml names no text.model, and neither WORK nor the run has one.
# SBATCH_OPTIONS: options for each sbatch (partition, account, size). TASKS: tasks in the array (default 8; 4 run at a time).
# TEXT_OPTIONS: options for the text tokenizer's job, which needs no GPU, if another partition has CPU nodes.
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
# Print vocabulary size and manifests, one a line, to train a text tokenizer with; nothing if the YAML names a text.model.
text_of() {
  python -c 'from hitvideo.runs.program import guarded; from hitvideo.settings.programs import PretrainRun, load_settings_as
def show(words):
  settings = load_settings_as(PretrainRun, words[0], words[1:])
  manifests = [part.manifest for part in settings.data.blend] or [settings.data.manifest]
  if settings.text.model is None: print(settings.text.vocab_size, *manifests, sep="\n")
guarded(show)' "$@"
}
submit() { local after=$1; shift; sbatch --parsable --kill-on-invalid-dep=yes ${after:+--dependency=afterok:$after} "${options[@]}" "$@"; }

weights=$(run_of "$video_tokenizer" run.root="$work/runs")/weights          # wrong settings end the script here, before any job is queued
words=(run.root="$work/runs" data.manifest="$work/tokens/manifest.json")
model=$(run_of "$pretrain" "${words[@]}")
run_of "$tokenize" > /dev/null
text=$work/text.model
needed=$(text_of "$pretrain" "${words[@]}")
if [ ! -f "$text" ] && [ -f "$model/text_tokenizer.model" ]; then needed=; fi   # a run that began with its own goes on with it
[ -z "$needed" ] || words+=(text.model="$text")

first=$(submit "" slurm/pretrain_tokenizer.sh "$video_tokenizer" run.root="$work/runs" data.video_shards="$shards")
second=$(submit "$first" --array="0-$((${TASKS:-8} - 1))%4" slurm/tokenize_shards.sh "$tokenize" video_tokenizer.weights="$weights" \
  data.video_shards="$shards" data.out="$work/tokens")
before=$second said=
if [ -n "$needed" ] && [ ! -f "$text" ]; then
  mapfile -t needed <<< "$needed"
  read -ra cpu <<< "--nodes=1 --gpus-per-node=0 ${TEXT_OPTIONS:-}"
  before=$(submit "$second" "${cpu[@]}" slurm/text_tokenizer.sh "${needed[@]:1}" "$text" --vocab-size "${needed[0]}")
  said=" text tokenizer $before,"
fi
third=$(submit "$before" slurm/pretrain.sh "$pretrain" "${words[@]}")
fourth=$(submit "$third" slurm/generate.sh --run "$model" --prompt "$prompt" --out "$work/video.mp4")
echo "submitted: video tokenizer $first, tokenize $second,$said pretrain $third, generate $fourth, which writes $work/video.mp4"
