#!/usr/bin/env bash
# What benchmarks/accelerator.py measures, on a bare machine: one that has Python 3.12, jax with its
# accelerator, flax, optax, orbax-checkpoint, chex, scikit-learn, PyTorch, transformers and
# safetensors, but no network and nothing else of ours.
#
#   benchmarks/accelerator.sh wheels DIR
#       Where there is a network: download what such a machine lacks, as wheels for it, 16 MB.
#   benchmarks/accelerator.sh run --wheels=DIR --images=FILE --out=DIR [--minutes=9] [FLAGS]
#       There: install the wheels beside the machine's packages, which stay as they are; unpack the
#       images, an archive that holds train/<class>/ and test/<class>/ or a folder that does; measure
#       under a deadline. DIR gets at most 8 files. FLAGS are accelerator.py's.
#
# PYTHON chooses the interpreter, python3 by default.
set -eu

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)

# What vdu-jax imports (setup.cfg) and its packages import in turn, less what the machine has.
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
    [ $# = 1 ] || fail "say where: accelerator.sh wheels DIR"
    mkdir -p "$1"
    # promise and nothing else of these comes as source alone, of pure Python.
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
    [ -n "$out" ] || fail "--out=DIR is missing"
    [ -d "$wheels" ] || fail "--wheels=$wheels: no such folder; accelerator.sh wheels DIR makes one"
    [ -z "$images" ] || [ -e "$images" ] || fail "--images=$images: no such file or folder"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    begun=$SECONDS
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --target "$work/site" "$wheels"/*.whl
    if [ -f "$images" ]; then
        mkdir "$work/unpacked"
        tar -xf "$images" -C "$work/unpacked"
        # The folder with train/ may lie in another one.
        images=$(dirname "$(find "$work/unpacked" -type d -name train -print -quit)")
    fi
    [ -z "$images" ] || flags+=("--images=$images")
    export PYTHONPATH="$work/site:$here/..${PYTHONPATH:+:$PYTHONPATH}"
    export JAX_COMPILATION_CACHE_DIR="$work/compiled"
    spent=$((SECONDS - begun))
    # accelerator.py keeps its own time; this ends it should it hang.
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
