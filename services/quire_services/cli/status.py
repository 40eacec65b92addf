"""``quire status``: the kvstore's own counters, for people or as JSON.

It asks the kvstore itself over its socket, without a session, and computes nothing that is not in the reply but
percentages. A kvstore that does not answer is one line and exit code 1.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quire_proto.client.client import KVReader
from quire_proto.messages import Stats
from quire_proto.messages.tenants import Tenants
from quire_proto.wire.errors import QuireError
from quire_services.config.input_files import one_line
from quire_services.process import flags

from .tenant import table as tenant_table

TIMEOUT = 3.0


def main(argv: list[str]) -> int:
    """Entry of ``quire status``; returns the exit code."""
    parser = flags.Parser(prog="quire status", description=(__doc__ or "").partition("\n")[0])
    flags.add(parser, "serve", "gateway", only=("run_dir", "port"))
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    parser.add_argument("--session", metavar="NAME", help="only whether this session is ready (exit code 1 if not)")
    arguments = parser.parse_args(argv)
    run_dir = flags.read_config(parser, arguments).run_dir
    try:
        stats, tenants = ask(run_dir)
    except (QuireError, OSError) as error:
        sys.stderr.write(f"quire status: {one_line(f'no kvstore answers in {run_dir} ({error})')}\n")
        return 1
    if arguments.session:
        states = [session.state for session in stats.sessions if session.name == arguments.session]
        sys.stdout.write(f"{arguments.session}: {', '.join(states) or 'no such session'}\n")
        return 0 if "ready" in states else 1
    text = json.dumps(as_json(stats, tenants), indent=2) if arguments.json else table(stats, tenants)
    sys.stdout.write(text + "\n")
    return 0


def ask(run_dir: Path) -> tuple[Stats, Tenants]:
    """Counters and tenants of the kvstore in ``run_dir``; raises QuireError or OSError."""
    if not (run_dir / "kvstore.sock").exists():
        raise FileNotFoundError("there is no kvstore.sock")
    with KVReader(run_dir, timeout=TIMEOUT) as reader:
        return reader.stats(), reader.tenants()


def as_json(stats: Stats, tenants: Tenants) -> dict[str, Any]:
    """The reply as plain JSON values: bytes in hex, publications with their length instead of their tokens."""
    content = asdict(stats)
    content["boot"] = stats.boot.hex()
    content["publications"] = [
        {"id": p.id, "domain": p.domain, "state": p.state, "generation": p.generation, "tokens": len(p.tokens) // 4}
        for p in stats.publications
    ]
    content["tenants"] = [asdict(tenant) for tenant in tenants.tenants]
    return content


def table(stats: Stats, tenants: Tenants) -> str:
    """The same for a person."""
    layout = stats.layout
    lines = [
        f"kvstore {stats.version}, boot {stats.boot.hex()[:8]}, up {stats.uptime_ms / 1000:.0f} s",
        f"model {layout.model} ({layout.dtype}), blocks of {layout.block_size} tokens, {layout.block_bytes} bytes each",
        "",
        f"{'blocks':<28}{stats.num_blocks:>12}",
    ]
    for state in ("free", "held", "cached", "quarantined"):
        count = stats.blocks.get(state, 0)
        lines.append(f"  {state:<26}{count:>12}  {100 * count / stats.num_blocks:5.1f} %")
    for title, numbers in (("slots", stats.slots), ("counters", stats.counters), ("messages", stats.ops)):
        lines += ["", title, *(f"  {name:<26}{number:>12}" for name, number in numbers.items())]
    if stats.sessions:
        lines += ["", f"{'session':<20}{'state':<10}{'pid':>8}{'sequences':>11}{'blocks':>9}{'steps':>10}"]
        lines += [
            f"{s.name:<20}{s.state:<10}{s.pid:>8}{s.sequences:>11}{s.blocks:>9}{s.progress:>10}" for s in stats.sessions
        ]
    if stats.publications:
        lines += ["", f"{'publication':<28}{'domain':<10}{'state':<10}{'tokens':>8}"]
        lines += [f"{p.id:<28}{p.domain:<10}{p.state:<10}{len(p.tokens) // 4:>8}" for p in stats.publications]
    if tenants.tenants:
        lines += ["", tenant_table(tenants.tenants)]
    return "\n".join(lines)
