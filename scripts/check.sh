#!/usr/bin/env bash
# Everything `make check` does before the tests: check.sh BIN. Stops at the first failure and names it.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1

step() {
    local label=$1 began=$SECONDS
    shift
    printf 'check: %s ...\n' "$label"
    "$@" || { printf 'check: %s: FAILED (%s)\n' "$label" "$*" >&2; exit 1; }
    printf 'check: %s: %s s\n' "$label" "$((SECONDS - began))"
}

step "format" "$bin/ruff" format --check --quiet .
step "lint" "$bin/ruff" check --quiet .
step "types" "$bin/mypy"
step "import directions" "$bin/lint-imports" --no-cache --no-logo
step "wheel content" "$bin/python" scripts/check_wheel.py
step "pins, all extras, from PyPI alone" "$bin/python" scripts/check_pins.py
step "compose file" scripts/check_compose.sh
step "pages as a site" env NO_MKDOCS_2_WARNING=1 "$bin/mkdocs" build --strict --quiet --site-dir "$(mktemp -d)"
