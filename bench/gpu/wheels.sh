#!/usr/bin/env bash
# Fetches the wheels that a GPU machine without a registry may lack: wheels.sh DIR (default: .wheels), Python 3.12, x86-64.
# bench/gpu/run.py installs those it finds missing, into a folder of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
into=${1:-.wheels}
mapfile -t wanted < <(grep -E '^(pyzmq|structlog|msgpack|uvloop|llguidance|cuda-bindings|cuda-pathfinder|pytest-timeout|hypothesis|sortedcontainers|psutil)==' constraints.txt)
platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux1; do
    platforms+=(--platform "${platform}_x86_64")
done
mkdir -p "$into"
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --dest "$into" "${wanted[@]}"
du -sh "$into"
