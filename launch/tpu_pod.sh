#!/bin/bash
# Runs a stage on all hosts of a Cloud TPU slice:
#   launch/tpu_pod.sh run --config=configs/cifar10.py --workdir=/mnt/shared/runs/cifar10
# docs/guides/many_hosts.md lists what to change.

set -euo pipefail

TPU_NAME="${TPU_NAME:-vdu}"         # name of the slice
ZONE="${ZONE:-us-central2-b}"
FOLDER="${FOLDER:-/mnt/shared/vdu-jax}" # the checkout with its .venv, at the same path on every host

if [ "$#" -lt 1 ]; then
    echo "usage: launch/tpu_pod.sh STAGE --config=FILE --workdir=DIR [FLAGS]" >&2
    exit 2
fi

# ssh passes the command to a shell on each host, so the arguments need a second quoting.
printf -v arguments ' %q' "$@" --coordinator=auto

exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all \
    --command="cd $(printf '%q' "$FOLDER") && exec .venv/bin/vdu$arguments"
