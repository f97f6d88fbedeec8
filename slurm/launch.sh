# Sourced by the scripts of long jobs, after env.sh.
#
#   launch MODULE RUN.yaml key=value …      one attempt at a run: check each node, train on fit nodes, then requeue or end
#   find_fit, again                         its parts that tokenize_shards.sh uses, too
#
# hitvideo/cluster/attempt.py makes and explains the decisions. SPARES: how many nodes of the allocation are kept as spares.

launch() {
  local module=$1 nodes=$((SLURM_JOB_NUM_NODES - ${SPARES:-0})) asked=0 run logs hosts fit step code
  set -- "${@:2}" cluster.nodes="$nodes" cluster.devices_per_node="$PER_NODE"   # Slurm knows both
  run=$(attempt begin "$@") || exit $?
  [ -e "$run/DONE" ] && { echo "$run is done"; exit 0; }
  export HITVIDEO_FAULTS=$run/attempts/$HITVIDEO_ATTEMPT
  export TORCH_FR_DUMP_TEMP_FILE=${TORCH_FR_DUMP_TEMP_FILE:-$HITVIDEO_FAULTS/collectives-}   # PyTorch adds the rank
  logs=$LOGS/${run##*/}-$SLURM_JOB_ID-r$RESTARTS
  scontrol update JobId="$SLURM_JOB_ID" JobName="${run##*/}"   # squeue shows which run it is
  # Only this shell gets the signal. The ranks see the file, agree at a step boundary, save, and exit with 75.
  trap 'asked=1; touch "$run/STOP"' USR1 TERM

  find_fit
  [ $asked = 1 ] && settle 0                                  # asked to stop before training began
  [ ${#fit[@]} -lt "$nodes" ] && settle unfit "$(attempt exclude "$HITVIDEO_FAULTS" "${hosts[@]}")"

  MASTER_ADDR=$(address "${fit[0]}"); export MASTER_ADDR      # the ranks' meeting address
  export NUMA=${NUMA-$(attempt numa "$HITVIDEO_FAULTS" "${fit[@]}")}   # torchrun's option: a rank's cores are near its GPU
  "${SRUN[@]}" --nodes="$nodes" --ntasks="$nodes" --nodelist="$(IFS=,; echo "${fit[*]}")" --kill-on-bad-exit=1 --wait=60 \
    --output="$logs-%n.log" "${PREFIX[@]}" \
    bash -c 'exec torchrun $NUMA --nnodes="$SLURM_STEP_NUM_NODES" --node-rank="$SLURM_NODEID" --nproc-per-node="$0" --max-restarts=0 \
      --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" -m "$@"' "$PER_NODE" "$module" "$@" & step=$!
  while :; do wait $step; code=$?; kill -0 $step 2>/dev/null || break; done   # a trapped signal ends `wait` early
  settle "$code"
}

# Check all nodes of the job, those without a report twice. Sets `hosts`, all of them, and `fit`, the first $nodes that are fit.
find_fit() {
  local bad
  mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  check_nodes "${hosts[@]}"
  mapfile -t bad < <(for host in "${hosts[@]}"; do [ -e "$HITVIDEO_FAULTS/$host.json" ] || echo "$host"; done)
  if [ $asked = 0 ] && [ ${#bad[@]} -gt 0 ]; then             # a slow file system is fast the second time
    echo "no report of ${bad[*]} ($logs-preflight.log; PREFLIGHT_SECONDS is $PREFLIGHT_SECONDS): checked again"
    check_nodes "${bad[@]}"
  fi
  mapfile -t bad < <(attempt unfit "$HITVIDEO_FAULTS" "${hosts[@]}" | tr , '\n')
  mapfile -t fit < <(printf '%s\n' "${hosts[@]}" | grep -vxFf <(printf '%s\n' "${bad[@]}") | head -n "$nodes")
}

# Run the pre-flight on the nodes named. One that does not end in time leaves no report.
check_nodes() {
  "${SRUN[@]}" --nodes=$# --ntasks=$# --nodelist="$(IFS=,; echo "$*")" --kill-on-bad-exit=0 --wait=60 --open-mode=append \
    --output="$logs-preflight.log" \
    timeout "$PREFLIGHT_SECONDS" "${PREFIX[@]}" python -m hitvideo.cluster.preflight "$HITVIDEO_FAULTS" "$PER_NODE"
}

# Print the address of a node, whose name in Slurm need not be a host's. site.sh may define this function.
declare -F address > /dev/null || address() {
  local found; found=$(scontrol show node -o "$1" | grep -oP ' NodeAddr=\K\S+')
  echo "${found:-$1}"
}

# End an attempt whose ranks exited with code $1, or that lacks fit nodes: done, go on (without the nodes $2), or give up.
settle() {
  local code
  attempt end "$run" "$1" "$asked"; code=$?
  [ $code = 75 ] && again "${2:-}"
  exit $code
}

# Requeue this job without the nodes $1, or submit it again; neither if it was cancelled, or if Slurm requeues it by itself. Slurm
# accepts nodes to exclude only while a job is pending. So set them after the requeue, in the seconds before Slurm kills this
# script, which ignores the signal.
again() {
  trap '' TERM USR1
  local before excluded shown
  before=$(scontrol show job -o "$JOB" | grep -oP 'ExcNodeList=\K[^ (]+')
  excluded=${before:+$before,}$1
  if [ "$(cat "$HITVIDEO_FAULTS/chain")" = requeue ] && scontrol requeue "$JOB"; then
    [ -n "$1" ] && for _ in {1..10}; do scontrol update JobId="$JOB" ExcNodeList="$excluded" && break; sleep 0.5; done
    sleep 60
    exit 1
  fi
  [ "$JOB" = "$SLURM_JOB_ID" ] || { echo "not requeued; submit the same line again: it does what is missing"; exit 1; }
  shown=$(scontrol show job -o "$JOB")
  if [[ $shown == *JobState=RUNNING* || ($shown == *Requeue=0* && $shown == *Reason=NodeDown*) ]]; then submit_again "$excluded"; fi
  exit 1
}

# Submit this script again, with its options and without the nodes $1. Jobs that wait for this one wait for the new one.
submit_again() {
  local options next job after
  mapfile -t options < <(scontrol show job -o "$SLURM_JOB_ID" | attempt options "$ASKED_GPUS" "$1")
  next=$(
    export HITVIDEO_CHAIN=${HITVIDEO_CHAIN:-$SLURM_JOB_ID}
    for name in "${!SLURM_@}"; do [ "$name" = SLURM_CONF ] || unset "$name"; done   # of this job; srun would read them in the next
    unset HITVIDEO_ATTEMPT HITVIDEO_FAULTS MASTER_ADDR MASTER_PORT NUMA
    sbatch --parsable --export=ALL "${options[@]}" "${SCRIPT[@]}"
  ) || { echo "submit the same line again: it resumes"; exit 1; }
  next=${next%%;*}
  squeue --noheader --format='%i %E' | grep -F ":$SLURM_JOB_ID(" | while read -r job after; do
    after=${after//:$SLURM_JOB_ID(/:$next(}
    scontrol update JobId="$job" Dependency="$(sed 's/([a-z]*)//g' <<< "$after")"
  done
  echo "attempt $HITVIDEO_ATTEMPT: goes on as job $next"
  exit 0
}
