#!/usr/bin/env bash
# Run the tests that start real processes ten times in a row and insist that nothing is left behind:
# no process of ours, no shared memory segment, no socket. Run it on a machine that runs no other Quire.
# Usage: scripts/ten_runs.sh [.venv/bin [pytest arguments, by default: the process tests of `make test`]]
set -eu
cd "$(dirname "$0")/.."
bin=${1:-.venv/bin}
shift || true
[ $# -gt 0 ] || set -- tests

left_behind() {
    for process in /proc/[0-9]*; do # pgrep is not everywhere
        tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep 'quire_services[.]' || true
    done
    find /dev/shm -maxdepth 1 -name 'quire-*'
    find "${TMPDIR:-/tmp}" -type s \( -name 'kvstore.sock' -o -name 'attach.sock' -o -name 'gateway.sock' \) 2>/dev/null
}

failed=0
for run in 1 2 3 4 5 6 7 8 9 10; do
    "$bin/python" -m pytest -q -m "process and not soak and not slow" "$@" || failed=$((failed + 1)) # it must clean up, too
    left=$(left_behind)
    if [ -n "$left" ]; then
        echo "run $run left behind:" >&2
        echo "$left" >&2
        exit 1
    fi
    echo "run $run: nothing left behind"
done
[ "$failed" -eq 0 ] || { echo "tests failed in $failed of 10 runs" >&2; exit 1; }
