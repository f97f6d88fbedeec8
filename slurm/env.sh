# The environment of a job, with the reason for each variable. Every script here sources it.
#
# Put what your site needs (modules, a virtual environment, the network interface) into slurm/site.sh; it is sourced first.

cd "${SLURM_SUBMIT_DIR:?submit with sbatch from the checkout}" || exit 1   # in a job, $0 is a copy in Slurm's spool
[ -f slurm/site.sh ] && source slurm/site.sh
[ -f .venv/bin/activate ] && source .venv/bin/activate
LOGS=slurm/logs                                             # in the checkout: a job whose log folder is missing ends without a message

RESTARTS=${SLURM_RESTART_COUNT:-0}                          # attempts of this job before this one
gpus=${SLURM_GPUS_PER_NODE:-1}; gpus=${gpus##*:}            # as requested (h100:8): an --exclusive job gets all GPUs
PER_NODE=${PROCESSES_PER_NODE:-$gpus}                       # ranks on a node: one per GPU
CPUS=${SLURM_CPUS_PER_TASK:-1}                              # per node; srun does not take this number from sbatch
export HITVIDEO_ATTEMPT=$SLURM_JOB_ID.$RESTARTS             # the only attempt whose ranks may write into the run's directory
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))        # from the job's id: jobs may share a node
export NUMA=                                                # torchrun's option: a rank's threads and memory near its GPU
command -v numactl >/dev/null && command -v nvidia-smi >/dev/null && NUMA=--numa-binding=node
threads=$((CPUS / PER_NODE)); threads=$((threads > 8 ? 8 : threads < 1 ? 1 : threads))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}         # ranks share the cores; by default each rank uses all
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1              # logs without delay, and a stack if a rank crashes
export TORCH_FR_BUFFER_SIZE=2000 TORCH_NCCL_DUMP_ON_TIMEOUT=1   # shows which collective hung on which rank
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True     # ZeRO-3 gathers tensors of many sizes, which fragments memory
export DS_BUILD_OPS=0                                       # DeepSpeed must not compile ops at run time
