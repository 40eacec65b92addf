"""Configuration and keys: whether they can be used, and who else can read or guess what should be secret."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

from quire_services.config.input_files import read_bytes
from quire_services.config.settings import MAX_BODY_BYTES
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.scene import Scene
from quire_services.gateway.admin.token import TOKEN_FILE, AdminToken, TokenError
from quire_services.process.port_check import is_loopback

MIN_KEY_CHARS, MIN_DIFFERENT = 16, 8


def check_settings(scene: Scene) -> Findings:
    """What no process could start with, and secrets that are none."""
    if scene.mistake:
        yield problem(
            "config-invalid", scene.mistake, "correct what is named; no command starts before", scene.config.file or ""
        )
    yield from _keys(scene)
    yield from _admin_token(scene)
    yield from _prompts(scene)


def _keys(scene: Scene) -> Findings:
    config, file = scene.config, scene.config.file
    keys = [(tenant.name, number, key) for tenant in config.tenants for number, key in enumerate(tenant.keys, 1)]
    if not keys and not scene.mistake and not is_loopback(config.gateway.host):
        yield problem(
            "keys-missing",
            f"gateway.host {config.gateway.host} can be reached by others, and no API key is configured",
            "add [[tenants]] with keys to the configuration, or listen on 127.0.0.1",
            "gateway.host",
        )
    for tenant, number, key in keys:
        if why := _weakness(key, tenant):
            yield problem(
                "key-weak",
                f"key {number} of tenant {tenant} {why}",
                "take a random one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
                file or "",
            )
    if keys and file and (mode := _open_to_others(file)):
        yield problem(
            "keys-readable",
            f"other users may read or change this file, which holds API keys (mode {mode:04o})",
            f"chmod 600 {shlex.quote(str(file))}",
            file,
        )
    if not scene.mistake:
        yield fact(
            "keys", f"{len(keys)} API keys of {len(config.tenants)} tenants" if keys else "none: one open tenant"
        )


def _weakness(key: str, tenant: str) -> str:
    """What makes a key easy to guess, in words that do not help to guess it."""
    if len(key) < MIN_KEY_CHARS:
        return f"has fewer than {MIN_KEY_CHARS} characters"
    if len(set(key)) < MIN_DIFFERENT:
        return f"has fewer than {MIN_DIFFERENT} different characters"
    return "holds the tenant's name and little else" if len(key.replace(tenant, "")) < MIN_KEY_CHARS // 2 else ""


def _open_to_others(file: Path) -> int:
    """The mode of a file that others may read or change, 0 of any other."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return 0
    return stat.S_IMODE(mode) if stat.S_ISREG(mode) and mode & 0o066 else 0


def _admin_token(scene: Scene) -> Findings:
    named = scene.config.gateway.admin_token_file
    file = Path(named) if named else scene.run_dir / TOKEN_FILE
    if not named and not file.exists():
        return  # it is made with the gateway
    try:
        AdminToken(scene.run_dir, str(file))
    except TokenError as error:
        yield problem(
            "admin-token-unusable",
            str(error),
            "make it a file of one long random line that its owner alone can read (chmod 600)",
            file,
        )


def _prompts(scene: Scene) -> Findings:
    for prompt in scene.config.published:
        for file in filter(None, (prompt.file, prompt.tools)):
            try:
                read_bytes(file, MAX_BODY_BYTES)
            except OSError as error:
                yield problem(
                    "prompt-unreadable",
                    f"the published prompt {prompt.id} cannot be read: {error.strerror}",
                    "correct [[published]] in the configuration, or let this user read the file",
                    file,
                )
