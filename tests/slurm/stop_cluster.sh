#!/usr/bin/env bash
# Stops what start_cluster.sh started below a directory, and nothing else. The directory stays, with its logs.
#
#   tests/slurm/stop_cluster.sh DIRECTORY
set -uo pipefail
dir=$(cd "${1:?usage: stop_cluster.sh DIRECTORY}" && pwd) || exit

SLURM_CONF=$dir/slurm.conf timeout 10 scancel --full --signal=KILL --user="$(id -un)" 2>/dev/null
SLURM_CONF=$dir/slurm.conf timeout 10 scancel --user="$(id -un)" 2>/dev/null
for daemon in slurmd slurmctld munged; do
    pid=$(cat "$dir/$daemon.pid" 2>/dev/null) || continue
    # A number in a file may have become another process's.
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ] || continue
    kill "$pid" 2>/dev/null
    for _ in $(seq 50); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
done
exit 0
