#!/usr/bin/env bash
# Reads compose.yaml with a real compose parser, once for each profile. No container engine is needed.
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
export MODEL_DIR=/models/example CONFIG_DIR=./config
for profile in cpu gpu; do
    "${parser[@]}" --file compose.yaml --profile "$profile" config --quiet
    services=$("${parser[@]}" --file compose.yaml --profile "$profile" config --services | sort | paste -sd' ')
    echo "profile $profile: $services"
done
