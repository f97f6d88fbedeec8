# Sourced by the training scripts, after env.sh.
#
#   launch MODULE RUN.yaml key=value …      one attempt at a run: check each node, train on fit nodes, then requeue or end
#
# hitvideo/cluster/attempt.py makes and explains the decisions. SPARES: how many nodes of the allocation are kept as spares.

launch() {
  local module=$1 nodes=$((SLURM_JOB_NUM_NODES - ${SPARES:-0})) run bad code asked=0 fit step
  set -- "$2" cluster.nodes="$nodes" cluster.devices_per_node="$PER_NODE" "${@:3}"   # Slurm already knows both
  run=$(python -m hitvideo.cluster.attempt begin "$@") || exit $?
  [ -e "$run/DONE" ] && { echo "$run is done"; exit 0; }
  export HITVIDEO_FAULTS=$run/attempts/$HITVIDEO_ATTEMPT
  # Only this shell gets the signal. The ranks see the file, agree at a step boundary, save, and exit with 75.
  trap 'asked=1; touch "$run/STOP"' USR1 TERM

  mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=60 --cpus-per-task="$CPUS" --output="$LOGS/%x-%j-r$RESTARTS-preflight.log" \
    timeout 120 python -m hitvideo.cluster.preflight "$HITVIDEO_FAULTS" "$PER_NODE"
  [ $asked = 1 ] && settle 0                                  # asked to stop before training began
  bad=$(python -m hitvideo.cluster.attempt unfit "$HITVIDEO_FAULTS" "${hosts[@]}")
  mapfile -t fit < <(printf '%s\n' "${hosts[@]}" | grep -vxFf <(tr ',' '\n' <<< "$bad") | head -n "$nodes")
  [ "${#fit[@]}" -lt "$nodes" ] && { echo "too few fit nodes: requeued without $bad"; again "$bad"; }

  export MASTER_ADDR=${fit[0]}                                # the ranks' meeting address
  srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --nodelist="$(IFS=,; echo "${fit[*]}")" --kill-on-bad-exit=1 --wait=60 \
    --cpus-per-task="$CPUS" --output="$LOGS/%x-%j-r$RESTARTS-%n.log" \
    bash -c 'exec torchrun $NUMA --nnodes="$SLURM_STEP_NUM_NODES" --node-rank="$SLURM_NODEID" --nproc-per-node="$0" --max-restarts=0 \
      --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" -m "$@"' "$PER_NODE" "$module" "$@" & step=$!
  while :; do wait $step; code=$?; kill -0 $step 2>/dev/null || break; done   # a trapped signal ends `wait` early
  settle "$code"
}

# End an attempt whose ranks exited with code $1: done, requeue, or give up.
settle() {
  python -m hitvideo.cluster.attempt end "$run" "$1" "$asked"; code=$?
  [ $code = 75 ] && again ""
  exit $code
}

# Requeue this job without the nodes named in $1. Slurm accepts nodes to exclude only while a job is pending. So set them after
# the requeue, in the seconds before Slurm kills this script, which ignores the signal.
again() {
  trap '' TERM USR1
  local before; before=$(scontrol show job -o "$SLURM_JOB_ID" | grep -o 'ExcNodeList=[^ ]*' | cut -d= -f2)
  [ "$before" = "(null)" ] && before=
  scontrol requeue "$SLURM_JOB_ID" || exit 1
  [ -n "$1" ] && for _ in {1..10}; do scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="${before:+$before,}$1" && break; sleep 0.5; done
  sleep 60
}
