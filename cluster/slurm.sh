#!/usr/bin/env bash
# A Ray cluster for as long as one job lasts, on the nodes that SLURM gives:
#   sbatch --nodes 2 --gpus-per-node 4 cluster/slurm.sh pipeline small --source /shared/nsynth --out /shared/small
# Submit it in the project's folder, on a disk that all nodes share, after `make .venv`.
#SBATCH --job-name=mars
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
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

# Five minutes before the end SLURM sends SIGTERM: a checkpoint is saved, and the job, queued again, goes on from it.
mars "$@" &
job=$!
trap 'kill -TERM "$job"' TERM
wait "$job" && code=0 || code=$?
while kill -0 "$job" 2> /dev/null; do wait "$job" && code=0 || code=$?; done
if ((code == 143)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
