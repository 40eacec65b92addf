"""The command line of the benches: ``quire bench NAME [options]``, also ``python -m bench.cli NAME``.

Every bench is a module of its own name with ``add_arguments(parser)`` and ``run(arguments) -> Report``, imported when
asked for; one that keeps no results has a ``main(argv)`` instead. Output is a report for people, or JSON with
``--json``; ``--save NAME`` also writes both under ``bench/results``.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

from bench.processes.side import SideError
from bench.report.figures import say

BENCHES = {  # name, also of its module: the folder that holds it, what it measures
    "control": ("control", "the kvstore over its socket against a peer's manager in process"),
    "trees": ("control", "the control plane of this tree beside another one's"),
    "serve": ("serve", "agents' requests over HTTP, ours and a peer's server in turn"),
    "engine": ("engine", "a step of the engine, split into its parts"),
    "layers": ("engine", "a step with transformers' own layers, and with ours in their place"),
    "attention": ("engine", "a step's attention on this CPU, by dtype and by what computes it"),
    "families": ("families", "which of transformers' architectures are served, by trying a tiny one of each"),
    "grammars": ("engine", "what grammars cost a decode step, and what drafts save a tool call"),
    "draws": ("engine", "what drawing a token from what filters leave costs, beside sorting a vocabulary"),
    "metrics": ("serve", "what it costs that metrics are read, and requests traced"),
    "starts": ("serve", "seconds until a stack is ready, and until a killed engine is replaced"),
    "pools": ("serve", "two engines on one pool against two engines with half a pool each"),
    "branch": ("branches", "blocks that samples and beams of one prompt save by sharing"),
    "windows": ("branches", "blocks that are given back where all layers have a sliding window"),
    "seeds": ("branches", "whether a text depends on anything but its request, and by how little it does not"),
    "paged": ("engine", "blocks against reserving the longest sequence, same bytes, same engine"),
    "dashboard": ("control", "how often the live picture of a busy pool is new, and what that costs the kvstore"),
    "scale": ("control", "costs against blocks, sequences, engines, tenants, prompt length"),
    "hostile": ("neighbours", "what one tenant's hostile bodies and floods cost another, and the gateway's memory"),
    "long_prompts": ("neighbours", "a client's steps beside a neighbour with prompts of 100,000 tokens"),
    "noisy": ("neighbours", "what a flooding tenant costs its neighbour, with a guarantee and without"),
    "cluster": ("cluster", "a thousand nodes in virtual time: routers, lost nodes, events"),
    "routers": ("entrance", "routers of the entrance before two stacks: hits, times, added latency"),
    "nodes": ("nodes", "a cluster of real stacks here: hits beside one pool, nodes that are lost, scaling under load"),
    "targets": ("report", "which targets the results on disk meet"),
    "eviction": ("eviction", "what an eviction policy costs a block, beside LRU"),
    "replay": ("eviction", "the hit rate of a trace of requests, by capacity and policy"),
}


def main(argv: list[str]) -> int:
    """Run one bench; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: quire bench NAME [options]\n")
        print("\n".join(f"  {name:<13}{text}" for name, (_, text) in BENCHES.items()))
        return 0 if argv else 2
    if argv[0] not in BENCHES:
        say(f"quire bench: {argv[0]!r} is no bench; there are {', '.join(BENCHES)}")
        return 2
    folder, description = BENCHES[argv[0]]
    module = importlib.import_module(f"bench.{folder}.{argv[0]}")
    if hasattr(module, "main"):
        status: int = module.main(argv[1:])
        return status
    parser = argparse.ArgumentParser(prog=f"quire bench {argv[0]}", description=description)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json and .md")
    module.add_arguments(parser)
    arguments = parser.parse_args(argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # servers under test must not stay behind
    try:
        report = module.run(arguments)
    except SideError as error:
        say(f"quire bench {argv[0]}: {error}")
        return 1
    report.write(arguments.save)
    report.show(arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
