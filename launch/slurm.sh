#!/bin/bash
# Runs a stage on several nodes under Slurm, one process per GPU:
#   sbatch launch/slurm.sh run --config=configs/cifar10.py --workdir=/shared/runs/cifar10
# docs/guides/many_hosts.md lists what to change.

#SBATCH --job-name=vdu
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=vdu-%j.log
# SIGTERM two minutes before the time limit lets training and unlearning save their state and stop.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

if [ "$#" -lt 1 ]; then
    echo "usage: sbatch launch/slurm.sh STAGE --config=FILE --workdir=DIR [FLAGS]" >&2
    exit 2
fi

# The virtual environment with vdu-jax, at the same path on every node.
VENV="${VENV:-$PWD/.venv}"

code=0
srun --kill-on-bad-exit=1 "$VENV/bin/vdu" "$@" --coordinator=auto || code=$?

# 143 = 128 + 15: SIGTERM stopped the stage after it saved its state. The requeued job resumes it.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
