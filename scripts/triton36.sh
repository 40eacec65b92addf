#!/usr/bin/env bash
# Compiles the kernels with the oldest Triton that is supported, in an environment of its own: triton36.sh BIN VENV
# VENV holds that Triton and a NumPy that it works with; everything else is found in the environment of BIN behind it.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1 venv=$2
triton=triton==3.6.0
numpy='numpy>=1.26,<2.4' # later ones break this Triton's interpreter
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

if [ "$(cat "$venv/ready" 2>/dev/null)" != "$triton $numpy" ]; then
    echo "triton36: $triton in $venv ..."
    "$bin/python" -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --no-deps "$triton" "$numpy"
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    rest=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; site.addsitedir('$rest')" >"$site/behind.pth"
    echo "$triton $numpy" >"$venv/ready"
fi
# One chip for each kind of matrix instruction: mma, wgmma, tcgen05.
"$venv/bin/python" scripts/cubins.py --arch sm_80 sm_90 sm_100
