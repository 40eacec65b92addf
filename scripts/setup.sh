#!/usr/bin/env bash
# Makes the development environment: setup.sh PYTHON VENV
# Versions come from constraints.txt. torch goes first, from the source that has the build for this machine
# (scripts/install_torch.py; TORCH_INDEX names another one).
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2

if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: $python lacks the venv module or is older than 3.11"
    scripts/install-system-packages.sh
fi

say() { printf 'setup: %s\n' "$*"; }
quietly() {  # what it says, then the command; its output is shown only when it fails
    local label=$1 log began=$SECONDS
    shift
    log=$(mktemp)
    say "$label ..."
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        say "$label: failed (whole output: $log)" >&2
        exit 1
    fi
    rm -f "$log"
    say "$label: $((SECONDS - began)) s"
}

pin() { grep "^$1==" constraints.txt; }
quietly "environment in $venv" "$python" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
quietly "$(pin pip)" "$venv/bin/pip" install "$(pin pip)"
quietly "$(pin torch) (the largest part)" "$venv/bin/python" scripts/install_torch.py
quietly "pinned dependencies and Quire itself" "$venv/bin/pip" install -c constraints.txt -e '.[dev]'
touch "$venv/ready"
say "ready after $SECONDS s"
