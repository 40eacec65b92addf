"""``quire status``: the kvstore's own counters, for people or as JSON.

It asks the kvstore itself over its socket, without a session, and computes nothing that is not in the reply but
percentages. A kvstore that does not answer is one line and exit code 1.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from quire_kv import Stats, Tenants
from quire_services.config.process_table import read_process_table
from quire_services.gateway.published_prompts.prompt_row import prompt_row
from quire_services.process import flags
from quire_services.process.kvstore_call import answer_of

from .tenant import tenants_table
from .text_table import prompts_table, text_table, weights_table

UNWATCHED = "no supervisor watches: what ends is not started again. `quire serve` takes over, `quire stop` stops all"
STATUS_TIMEOUT_S = 3.0  # containers are asked for their health by this command, and are given five


def main(argv: list[str]) -> int:
    """Entry of ``quire status``; returns the exit code."""
    parser = flags.Parser(prog="quire status", description=(__doc__ or "").partition("\n")[0])
    flags.add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    parser.add_argument("--session", metavar="NAME", help="only whether this session is ready (exit code 1 if not)")
    arguments = parser.parse_args(argv)
    run_dir = flags.read_config(parser, arguments).run_dir
    answer = answer_of(parser.prog, run_dir, lambda reader: (reader.stats(), reader.tenants()), STATUS_TIMEOUT_S)
    if answer is None:
        return 1
    stats, tenants = answer
    if arguments.session:
        states = [session.state for session in stats.sessions if session.name == arguments.session]
        sys.stdout.write(f"{arguments.session}: {', '.join(states) or 'no such session'}\n")
        return 0 if "ready" in states else 1
    supervisor = read_process_table(run_dir).supervisor
    if arguments.json:
        watches = {"pid": supervisor.pid, "runs": supervisor.runs()} if supervisor.pid else None
        text = json.dumps({**_as_json(stats, tenants), "supervisor": watches}, indent=2)
    else:
        text = _as_table(stats, tenants)
        if supervisor.pid and not supervisor.runs():
            text += f"\n\n{UNWATCHED}"
    sys.stdout.write(text + "\n")
    return 0


def _as_json(stats: Stats, tenants: Tenants) -> dict[str, Any]:
    """The reply as plain JSON values: bytes in hex, published prompts with their length instead of their tokens."""
    content = asdict(stats)
    content["boot"] = stats.boot.hex()
    content["weights"] = [{**asdict(one), "key": one.key.hex()} for one in stats.weights]
    content["publications"] = [prompt_row(publication) for publication in stats.publications]
    content["tenants"] = [asdict(tenant) for tenant in tenants.tenants]
    return content


def _as_table(stats: Stats, tenants: Tenants) -> str:
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
        columns = {"session": "<20", "state": "<10", "pid": ">8", "sequences": ">11", "blocks": ">9", "steps": ">10"}
        rows = [(s.name, s.state, s.pid, s.sequences, s.blocks, s.progress) for s in stats.sessions]
        lines += ["", text_table(columns, rows)]
    if stats.weights:
        lines += ["", weights_table(stats.weights)]
    if stats.publications:
        lines += ["", prompts_table(stats.publications)]
    if tenants.tenants:
        lines += ["", tenants_table(tenants.tenants)]
    return "\n".join(lines)
