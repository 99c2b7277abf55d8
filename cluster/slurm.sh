#!/usr/bin/env bash
# A Ray cluster for as long as one job lasts, on the nodes that SLURM gives:
#   sbatch --nodes 2 --gpus-per-node 4 cluster/slurm.sh pipeline small --source /shared/nsynth --out /shared/small
# Submit it in the project's folder, on a disk that all nodes share, after `make .venv`.
#SBATCH --job-name=mars
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mars-%j.log
set -euo pipefail

cd "$SLURM_SUBMIT_DIR"
PATH=$PWD/.venv/bin:$PATH
# The token is in this job's environment alone; who else is on these nodes is not let in.
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun, since 22.05, no longer takes from its job

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${nodes[0]}:$((20000 + SLURM_JOB_ID % 10000))
pids=()
start() { # NODE OPTIONS...: `ray start` on a node, which SLURM ends with the job
  srun --nodes 1 --ntasks 1 --nodelist "$1" ray start --block --num-cpus "$SLURM_CPUS_PER_TASK" \
    --num-gpus "${SLURM_GPUS_ON_NODE:-0}" "${@:2}" &
  pids+=($!)
}
trap 'kill "${pids[@]}" 2> /dev/null || true; wait' EXIT

start "${nodes[0]}" --head --port "${address#*:}" --include-dashboard false
for node in "${nodes[@]:1}"; do start "$node" --address "$address"; done
export RAY_ADDRESS=$address
python - "${#nodes[@]}" << 'PYTHON'
import sys, time
import ray
for _ in range(60):
    try:
        ray.init(logging_level="ERROR", log_to_driver=False)
        break
    except ConnectionError:
        time.sleep(5)
for _ in range(120):
    if (there := sum(node["Alive"] for node in ray.nodes())) == int(sys.argv[1]):
        break
    print(f"{there} of {sys.argv[1]} nodes", flush=True)
    time.sleep(5)
else:
    sys.exit(f"only {there} of {sys.argv[1]} nodes came within ten minutes")
PYTHON

# Five minutes before the end SLURM sends SIGUSR1: a checkpoint is saved, and the job, queued again, goes on from it.
# A user's SIGUSR2 saves one, and ends the job. scancel sends its SIGTERM to mars too, so it is not sent on: a second
# one would end mars before its checkpoint. For the same reason only the first of the others is.
again='' job=''
trap 'trap "" USR1; trap "again=" USR2; again=yes; kill -TERM "$job" || true' USR1
trap 'trap "" USR1 USR2; kill -TERM "$job" || true' USR2
trap 'again=' TERM
mars "$@" &
job=$!
wait "$job" && code=0 || code=$?
while kill -0 "$job" 2> /dev/null; do wait "$job" && code=0 || code=$?; done
if [[ $again && $code == 143 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
