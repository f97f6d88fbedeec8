#!/bin/bash
# bash slurm/sizes.sh
# Writes pretrain_SIZE.sh for each size: pretrain.sh with its run and number of nodes. Change pretrain.sh, then run this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
for size in 1b:2 3b:4 7b:16 13b:16; do
  name=${size%:*}
  sed "s|pretrain.sh RUN.yaml|pretrain_$name.sh|; s|run.name=mine|run.name=my-$name|; s|--job-name=pretrain|&-$name|
    s|--nodes=1 |--nodes=${size#*:} |; s|logs/pretrain|&-$name|; s|^launch pretrain|& yaml_configs/pretrain/$name.yaml|" \
    pretrain.sh > "pretrain_$name.sh"
done
