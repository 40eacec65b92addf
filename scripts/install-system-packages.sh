#!/usr/bin/env bash
# Installs the few system packages the project needs (Debian 12 or newer); does nothing when they are there.
#   git, make         the checks clone and run the project
#   python3-venv      the environment
#   docker-compose    reads compose.yaml with a real parser; no container engine is started
#   gcc, libc6-dev    build the CPU kernel of decode attention (without them engines use PyTorch, slower, and its tests are skipped)
#   prometheus        scrapes the pages of metrics and judges the rules over them (without it these tests are skipped)
#   redis-server      a store for a cluster's declarations, where Valkey is not packaged (without either these tests are skipped)
set -euo pipefail

have() { command -v "$1" >/dev/null 2>&1; }
missing=()
have git || missing+=(git)
have make || missing+=(make)
have python3 || missing+=(python3)
{ have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null; } || missing+=(python3-venv)
{ have docker-compose || { have docker && docker compose version >/dev/null 2>&1; }; } || missing+=(docker-compose)
have promtool || missing+=(prometheus)
{ have valkey-server || have redis-server; } || missing+=(redis-server)
have cc || missing+=(gcc libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)

if [ ${#missing[@]} -eq 0 ]; then
    echo "system packages: all there"
    exit 0
fi
command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
    echo "system packages missing: ${missing[*]}. As root, run: $command" >&2
    exit 1
fi
if ! have apt-get; then
    echo "system packages missing: ${missing[*]}. There is no apt-get here; install them with your package manager." >&2
    exit 1
fi
echo "system packages: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
