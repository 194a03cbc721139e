#!/usr/bin/env bash
# Runs benchmarks/accelerator.py on a machine without a network. The machine must have Python 3.12,
# jax with its accelerator, flax, optax, orbax-checkpoint, chex, scikit-learn, PyTorch, transformers
# and safetensors.
#
#   benchmarks/accelerator.sh wheels DIR
#       Downloads the other dependencies as wheels (16 MB). Run it on a machine with a network.
#   benchmarks/accelerator.sh run --wheels=DIR --images=FILE --out=DIR [--minutes=9] [FLAGS]
#       Installs the wheels in a temporary folder, unpacks the images and measures, within a time
#       limit. FILE is an archive or a folder with train/<class>/ and test/<class>/. The output
#       folder gets at most 8 files. FLAGS are those of accelerator.py.
#
# PYTHON is the interpreter, python3 by default.
set -eu

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)

# The dependencies of vdu-jax (setup.cfg) and theirs, without those that the machine has.
PACKAGES="
    absl-py array_record grain ml_collections tensorboardX diffusers importlib_metadata
    tensorflow-datasets tensorflow-metadata dm-tree etils immutabledict importlib_resources promise
    simple-parsing docstring-parser googleapis-common-protos portpicker six termcolor toml
"

fail() {
    echo "accelerator.sh: $1" >&2
    exit 2
}

wheels() {
    [ $# = 1 ] || fail "the folder is missing, say where: accelerator.sh wheels DIR"
    mkdir -p "$1"
    # promise is the only one of these packages without a wheel on PyPI. It is pure Python, so a wheel
    # that is built here works there.
    # shellcheck disable=SC2086 # a list of words
    "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$1" promise
    platforms=""
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
        platforms="$platforms --platform ${tag}_x86_64"
    done
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --dest "$1" --find-links "$1" \
        --python-version 3.12 --implementation cp $platforms $PACKAGES
    du -sh "$1"
}

run() {
    wheels="" images="" out="" minutes=9 flags=()
    for flag in "$@"; do
        case $flag in
        --wheels=*) wheels=${flag#*=} ;;
        --images=*) images=${flag#*=} ;;
        --out=*) out=${flag#*=} ;;
        --minutes=*) minutes=${flag#*=} flags+=("$flag") ;;
        *) flags+=("$flag") ;;
        esac
    done
    [ -n "$out" ] || fail "--out=DIR is missing: give a folder for the figures"
    [ -d "$wheels" ] || fail "--wheels=$wheels: no such folder; make it with accelerator.sh wheels DIR"
    [ -z "$images" ] || [ -e "$images" ] || fail "--images=$images: no such file or folder"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    begun=$SECONDS
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --target "$work/site" "$wheels"/*.whl
    if [ -f "$images" ]; then
        mkdir "$work/unpacked"
        tar -xf "$images" -C "$work/unpacked"
        # The archive may contain train/ at its top or in a folder.
        images=$(dirname "$(find "$work/unpacked" -type d -name train -print -quit)")
    fi
    [ -z "$images" ] || flags+=("--images=$images")
    export PYTHONPATH="$work/site:$here/..${PYTHONPATH:+:$PYTHONPATH}"
    export JAX_COMPILATION_CACHE_DIR="$work/compiled"
    spent=$((SECONDS - begun))
    # accelerator.py has its own time limit; this one ends it if it hangs.
    deadline=$("$PYTHON" -c "print(int(60 * $minutes) + 30)")
    echo "set up in $spent s; measuring for $minutes minutes" >&2
    timeout --kill-after=10 "$deadline" \
        "$PYTHON" "$here/accelerator.py" --out="$out" "${flags[@]}"
}

case ${1-} in
wheels | run)
    command=$1
    shift
    "$command" "$@"
    ;;
*)
    echo "usage: accelerator.sh wheels DIR | run --wheels=DIR --images=FILE --out=DIR [FLAGS]" >&2
    exit 2
    ;;
esac
