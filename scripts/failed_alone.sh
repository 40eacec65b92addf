#!/usr/bin/env bash
# Tests as CI runs them: failed_alone.sh PYTHON PYTEST_ARGUMENTS...
# On a busy machine of two cores a test that waits for processes may fail for its time alone. So the few that have failed
# are run once more, by themselves: one that fails again has found a fault, one that passes is named and is to be mended.
# More than a few, or a run that did not come to its end, is no matter of time.
set -uo pipefail
python=$1
shift
few=3

"$python" -m pytest --cache-clear "$@" && exit
status=$?
[ "$status" = 1 ] || exit "$status"
failed=$("$python" - <<'EOF'
import json
from pathlib import Path

print(*json.loads(Path(".pytest_cache/v/cache/lastfailed").read_text()), sep="\n")
EOF
) || exit 1
number=$(wc -l <<< "$failed")
[ "$number" -le "$few" ] || { echo "tests: $number failed, which is more than $few: no second try"; exit 1; }
echo "tests: $number failed beside others; once more, by themselves"
"$python" -m pytest "$@" -n 0 --last-failed --last-failed-no-failures none || exit 1
printf 'tests: passed by itself only, so its own time is at fault: %s\n' "$failed"
