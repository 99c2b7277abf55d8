#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, to try what a real one does: cluster/local.sh [NODES] [CPUS_A_NODE]
# It holds the terminal; Ctrl-C ends it, and nothing but what it started.
set -euo pipefail

nodes=${1:-3}
cpus=${2:-2}
port=${PORT:-6379}
dashboard_port=${DASHBOARD_PORT:-8265}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
PATH=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH

ray get-auth-token --generate > /dev/null # into ~/.ray/auth_token, unless one is there
folder=$(mktemp --directory /tmp/mars-cluster.XXXX)
pids=()
trap 'trap - INT TERM; kill "${pids[@]}" 2> /dev/null || true; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

# One after another, since nodes that start at once take each other's ports. Each has a folder of its own: a node
# unpacks and deletes a job's files as if nobody else did.
start() {
  local node=$folder/${#pids[@]}
  setsid ray start --block --node-ip-address 127.0.0.1 --num-cpus "$cpus" --object-store-memory 268435456 \
    --min-worker-port 0 --max-worker-port 0 --dashboard-agent-listen-port 0 --temp-dir "$node" "$@" \
    > "$node.log" 2>&1 &
  pids+=($!)
  until grep --quiet "Ray runtime started" "$node.log"; do
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2> /dev/null || { tail --lines 40 "$folder"/*.log >&2; exit 1; }
    done
    sleep 0.2
  done
}

start --head --port "$port" --dashboard-port "$dashboard_port" --ray-client-server-port "$((port + 1))"
for ((node = 1; node < nodes; node++)); do start --address "127.0.0.1:$port"; done
echo "$nodes nodes of $cpus CPUs: mars submit --address http://127.0.0.1:$dashboard_port JOB ..."
wait -n || true # the end of any node is the end of all
tail --lines 20 "$folder"/*.log >&2
exit 1
