#!/usr/bin/env bash
# Starts a Slurm of one node from Debian's packages: munged, slurmctld and slurmd, all below one directory.
#
#   apt-get install slurm-wlm munge
#   . tests/slurm/start_cluster.sh DIRECTORY     # or run it, and `export SLURM_CONF=DIRECTORY/slurm.conf`
#   tests/slurm/stop_cluster.sh DIRECTORY
#
# It has its own key, socket and ports and touches no other Slurm of the machine. There are two partitions: `normal`, and
# `urgent`, whose jobs preempt those of `normal` after a grace of 20 s. CPUS (default 4) is how many the node says it has:
# nothing holds jobs to them. The user who starts it owns it; root or not makes no difference.

start_cluster() (
    set -uo pipefail
    mkdir -p "$1" || exit
    dir=$(cd "$1" && pwd) || exit
    # Debian keeps daemons where users do not look.
    PATH=$PATH:/usr/sbin:/sbin
    for program in munged slurmctld slurmd sbatch; do
        command -v "$program" >/dev/null ||
            failed "no $program here. Debian, Ubuntu: apt-get install slurm-wlm munge"
    done
    mkdir -p "$dir/state" "$dir/spool" "$dir/munge"
    chmod 700 "$dir/munge"
    export SLURM_CONF=$dir/slurm.conf
    for attempt in 1 2 3 4 5; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 30000))
        free "$port" && free "$((port + 1))" && break
    done
    configure "$port" >"$SLURM_CONF"

    [ -f "$dir/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/key")
    # --force: the directory may lie below one that others can write to, such as /tmp.
    munged --force --num-threads=2 --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
        --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge/seed" \
        >"$dir/munged.err" 2>&1 || failed "munged does not start" munged.err
    slurmctld -c >>"$dir/slurmctld.err" 2>&1 || failed "slurmctld does not start" slurmctld.err
    slurmd -N "$(node)" >>"$dir/slurmd.err" 2>&1 || failed "slurmd does not start" slurmd.err
    for attempt in $(seq 100); do
        [ "$(timeout 5 sinfo --noheader --partition=normal --format=%t 2>/dev/null)" = idle ] && return
        [ $SECONDS -lt 60 ] || break
        sleep 0.1
    done
    failed "the node does not come up" slurmctld.log slurmd.log
)

# Says what went wrong, with the end of some logs. Ends the subshell: a function that `if` calls ignores `set -e`.
failed() {
    echo "$1" >&2
    shift
    for log in "$@"; do tail -n 5 "$dir/$log" >&2; done
    exit 1
}

node() { hostname -s; }

free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

configure() {
    cat <<END
ClusterName=tests
SlurmctldHost=$(node)(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$1
SlurmdPort=$(($1 + 1))
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its last credential has expired: two minutes, unless told otherwise (5 s is the least).
AuthInfo=socket=$dir/munge/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=30
MaxArraySize=${MAX_ARRAY_SIZE:-1001}
MaxJobCount=10000

SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_max_job_test=100,sched_interval=1,sched_min_interval=100000,batch_sched_delay=0,default_queue_depth=20
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal

# It may say that it has more CPUs than the machine: what runs here in the tests mostly sleeps.
SlurmdParameters=config_overrides
NodeName=$(node) NodeAddr=127.0.0.1 CPUs=${CPUS:-4} State=UNKNOWN
PartitionName=normal Nodes=$(node) Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=$(node) MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
}

if start_cluster "${1:?usage: start_cluster.sh DIRECTORY}"; then
    SLURM_CONF=$(cd "$1" && pwd)/slurm.conf
    export SLURM_CONF
    echo "export SLURM_CONF=$SLURM_CONF"
else
    false
fi
