#!/bin/bash
# A stage on all hosts of a Cloud TPU slice:
#   launch/tpu_pod.sh run --config=configs/cifar10.py --workdir=/mnt/shared/runs/cifar10
# See launch/README.md for what to change.

set -euo pipefail

TPU_NAME="${TPU_NAME:-vdu}"         # of the slice
ZONE="${ZONE:-us-central2-b}"
FOLDER="${FOLDER:-/mnt/shared/vdu-jax}" # the checkout, with its .venv, as every host sees it

if [ "$#" -lt 1 ]; then
    echo "usage: launch/tpu_pod.sh STAGE --config=FILE --workdir=DIR [FLAGS]" >&2
    exit 2
fi

# Quoted once more, for the shell on the hosts.
printf -v arguments ' %q' "$@" --coordinator=auto

exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all \
    --command="cd $(printf '%q' "$FOLDER") && exec .venv/bin/vdu$arguments"
