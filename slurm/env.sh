# The environment of a job, with the reason for each variable. Every script here sources it.
#
# Put what your site needs into slurm/site.sh; what it sets is kept. For example:
#   module load cuda                                        # or conda activate …: it comes after .venv
#   export NCCL_SOCKET_IFNAME=ib0                           # the network interface
#   LAUNCH_PREFIX="apptainer exec --nv hitvideo.sif"        # words before every python and torchrun (slurm/apptainer.def)
#   SRUN_EXTRA="--container-image=hitvideo.sqsh"            # words for every srun; no word may contain a space
#   PREFLIGHT_SECONDS=600 SPARES=1 MOST_RESTARTS=50         # see launch.sh and hitvideo/cluster/attempt.py

cd "${SLURM_SUBMIT_DIR:?submit with sbatch from the checkout}" || exit 1   # in a job, $0 is a copy in Slurm's spool
SCRIPT=("$0" "$@")                                          # to submit it again if the site requeues no jobs
[ -f .venv/bin/activate ] && source .venv/bin/activate
[ -f slurm/site.sh ] && source slurm/site.sh
LOGS=slurm/logs                                             # in the checkout: a job whose log folder is missing ends without a message
read -ra PREFIX <<< "${LAUNCH_PREFIX:-}"
attempt() { "${PREFIX[@]}" python -m hitvideo.cluster.attempt "$@"; }

# Print how many GPUs a node gives: as asked for by --gpus-per-node=h100:8 or --gres=gpu:h100:8 (an --exclusive job gets all,
# its steps only these), else as Slurm says, else the device files, else 0.
gpus_of_a_node() {
  local found=${SLURM_GPUS_PER_NODE##*:}
  [[ $found =~ ^[1-9][0-9]*$ ]] || found=$(timeout 10 scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null |
    grep -oP 'TresPerNode=\K\S+' | grep -oP 'gpu[^,]*?:\K[1-9][0-9]*(?=,|$)' | tail -n 1)
  [ -n "$found" ] || found=${SLURM_GPUS_ON_NODE:-$(ls -d /dev/nvidia[0-9]* 2>/dev/null | wc -l)}
  echo "$found"
}

# What scontrol calls this job: one task of an array has the array's number as its own, which would mean all of them.
JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; JOB=${JOB:-$SLURM_JOB_ID}
RESTARTS=${SLURM_RESTART_COUNT:-0}                          # attempts of this job before this one
ASKED_GPUS=${SLURM_GPUS_PER_NODE:=}
GPUS=$(gpus_of_a_node)
PER_NODE=${PROCESSES_PER_NODE:-$((GPUS > 0 ? GPUS : 1))}    # ranks on a node: one per GPU
# CPUs of a node for one step: as asked for, else those of the smallest node of the job.
CPUS=${SLURM_CPUS_PER_TASK:+$((SLURM_CPUS_PER_TASK * ${SLURM_NTASKS_PER_NODE:-1}))}
CPUS=${CPUS:-$(tr , '\n' <<< "${SLURM_JOB_CPUS_PER_NODE:-${SLURM_CPUS_ON_NODE:-$(nproc)}}" | sed 's/(.*//' | sort -n | head -n 1)}
# A step has one task a node with all that the job has there, however that was asked for: srun would read these, too.
unset SLURM_GPUS SLURM_GPUS_PER_NODE SLURM_GPUS_PER_TASK SLURM_GPUS_PER_SOCKET SLURM_TRES_PER_TASK SLURM_CPUS_PER_GPU \
  SLURM_NTASKS_PER_NODE SLURM_NTASKS_PER_GPU SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
read -ra SRUN <<< "srun ${SRUN_EXTRA:-}"
SRUN+=(--ntasks-per-node=1 --cpus-per-task="$CPUS" --mem=0)
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then SRUN+=(--gres=gpu:"$GPUS"); fi
export SLURM_EXPORT_ENV=ALL                                 # also if the site starts jobs, and so their steps, with an empty environment

export HITVIDEO_ATTEMPT=$SLURM_JOB_ID.$RESTARTS             # the only attempt whose ranks may write into the run's directory
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 12000))}   # jobs may share a node; from 32768 on, any program's
threads=$((CPUS / PER_NODE)); threads=$((threads > 8 ? 8 : threads < 1 ? 1 : threads))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}         # ranks share the cores; by default each rank uses all
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1              # logs without delay, and a stack if a rank crashes
export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-2000} TORCH_NCCL_DUMP_ON_TIMEOUT=1   # shows which collective hung on which rank
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}      # ZeRO-3 gathers tensors of many sizes
PREFLIGHT_SECONDS=${PREFLIGHT_SECONDS:-300}                 # the first imports from a busy file system take minutes
