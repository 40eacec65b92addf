#!/usr/bin/env bash
# Reads compose.yaml and its additions with a real compose parser. No container engine is needed.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v docker-compose >/dev/null 2>&1; then
    parser=(docker-compose)
elif command -v docker >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
    parser=(docker compose)
else
    echo "no compose parser here: run scripts/install-system-packages.sh" >&2
    exit 1
fi
unset MODEL # nothing set is how strangers start it
# compose.build.yaml is not read: secrets of builds are newer than the parser of Debian 12.
for more in "" compose.gpu.yaml compose.hub.yaml; do
    files=(--file compose.yaml ${more:+--file "$more"})
    "${parser[@]}" "${files[@]}" --profile observability config --quiet
    services=$("${parser[@]}" "${files[@]}" config --services | sort | paste -sd' ')
    echo "compose.yaml${more:+ $more}: $services"
done
