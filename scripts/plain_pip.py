"""pip's environment with no configured source of packages, but with the configured way to the network.

What pip is told by PIP_* variables and its configuration files falls into two kinds. Sources (index-url,
extra-index-url, find-links, constraint, no-index, ...) decide which packages there are: a local wheel may lack a
dependency that the same version has for everybody else. The way (certificates, proxy, timeouts, cache) only decides
how they are reached.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
WAY = ("cert", "client-cert", "proxy", "trusted-host", "timeout", "default-timeout", "retries", "cache-dir")


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environ`` for a pip that knows PyPI alone, reached as pip is configured to reach it."""
    plain = {name: value for name, value in environ.items() if not name.startswith("PIP_")}
    for key, value in _configured(environ).items():
        if key in WAY:
            plain["PIP_" + key.upper().replace("-", "_")] = value
    return plain | {"PIP_CONFIG_FILE": os.devnull}


def _configured(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's own settings by key, those of variables over those of files; the command's section over the global one."""
    listed = subprocess.run([*PIP, "config", "list"], env=dict(environ), capture_output=True, text=True, check=True)
    found: dict[tuple[int, str], str] = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in (order := ("global", "install", ":env:")):
            found[order.index(section), key] = " ".join(str(ast.literal_eval(value)).split())
    return {key: value for (_, key), value in sorted(found.items())}
