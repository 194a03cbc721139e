#!/bin/bash
# A stage on several nodes under Slurm, a process for each GPU:
#   sbatch launch/slurm.sh run --config=configs/cifar10.py --workdir=/shared/runs/cifar10
# See launch/README.md for what to change.

#SBATCH --job-name=vdu
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=vdu-%j.log
# Two minutes before the end the processes get SIGTERM: training and unlearning save and stop.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

if [ "$#" -lt 1 ]; then
    echo "usage: sbatch launch/slurm.sh STAGE --config=FILE --workdir=DIR [FLAGS]" >&2
    exit 2
fi

# The environment that `make` or pip made; on every node under the same path.
VENV="${VENV:-$PWD/.venv}"

code=0
srun --kill-on-bad-exit=1 "$VENV/bin/vdu" "$@" --coordinator=auto || code=$?

# 128 + 15: stopped by SIGTERM with everything saved; the same command goes on.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
