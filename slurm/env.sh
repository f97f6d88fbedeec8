# Sourced by every script here: settings of the site, one reason for each variable, and `launch`.
#
#   launch MODULE WORDS…     run `python -m MODULE WORDS…` on every device of the allocation; stop, requeue and resume
#
# Put what your site needs (modules, virtual environment, network interface) into slurm/site.sh; it is sourced first.

cd "${SLURM_SUBMIT_DIR:?submit with sbatch from the checkout}" || exit 1   # in a job, $0 is a copy in Slurm's spool
[ -f slurm/site.sh ] && source slurm/site.sh
[ -f .venv/bin/activate ] && source .venv/bin/activate
mkdir -p logs

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${hosts[0]}                              # where ranks meet
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))        # from the job's id: jobs may share a node
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}                # ranks share the cores; the default takes all of them for each
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1              # logs in time, and a stack where a rank crashes
export TORCH_NCCL_TRACE_BUFFER_SIZE=2000 TORCH_NCCL_DUMP_ON_TIMEOUT=1   # which collective hung, and on which rank
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True     # ZeRO-3 gathers tensors of many sizes and fragments memory
export DS_BUILD_OPS=0                                       # nothing of DeepSpeed is compiled at run time

RESTARTS=${SLURM_RESTART_COUNT:-0}
MOST_RESTARTS=${MOST_RESTARTS:-20}                          # a failure that repeats must not requeue for ever
PER_NODE=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}


launch() {
  local module=$1 code run asked=0; shift
  run=$(python -c 'import sys; from hitvideo import schema; print(schema.load(sys.argv[1], sys.argv[2:]).run.directory)' "$@") || exit 2
  [ -e "$run/DONE" ] && { echo "$run is done"; exit 0; }
  # The signal reaches this shell alone; the ranks see the file, agree at a step boundary, save, and exit 75.
  trap 'asked=1; mkdir -p "$run"; touch "$run/STOP"' USR1 TERM
  srun --kill-on-bad-exit=1 --wait=60 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --output="logs/%x-%j-r$RESTARTS-%n.log" \
    bash -c 'exec torchrun --nnodes="$SLURM_JOB_NUM_NODES" --node-rank="$SLURM_NODEID" --nproc-per-node="$0" --max-restarts=0 \
      --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" -m "$@"' "$PER_NODE" "$module" "$@" & local srun=$!
  while :; do wait $srun; code=$?; kill -0 $srun 2>/dev/null || break; done   # a trapped signal ends `wait` early
  # A node that fails can leave srun with 0, and a peer's SIGTERM hides the rank that died: only DONE means done.
  [ -e "$run/DONE" ] && exit 0
  local progress before=logs/progress-$SLURM_JOB_ID
  progress=$(find "$run/checkpoints" -name state.json 2>/dev/null | sort | tail -n 1)
  if [ $asked = 0 ] && [ -e "$before" ] && [ "$progress" = "$(cat "$before")" ]; then
    echo "two attempts without a new checkpoint: not requeued; the first traceback in logs/ is the cause"
  elif [ "$RESTARTS" -ge "$MOST_RESTARTS" ]; then
    echo "restarted $RESTARTS times: not requeued"
  else
    echo "$progress" > "$before"
    echo "attempt $RESTARTS ended with code $code (asked to stop: $asked): requeued"
    scontrol requeue "$SLURM_JOB_ID"; sleep 60
  fi
  exit $((code ? code : 1))
}
