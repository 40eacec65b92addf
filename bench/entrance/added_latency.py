"""Added latency: what a request takes longer through an entrance than sent to a node by itself.

Everything is cached at every node, and one request is under way at a time, so nothing is computed twice and nothing
queues: what is left is the prompt's rendering, the choice, and the carrying. The same request goes each way in turn,
the first way another one each time; of a way the median counts, and what it is more than the direct one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.load.agents import Agent
from bench.load.generator import Endpoint, play
from bench.load.stream import Answer
from bench.processes.side import SideError
from bench.report.figures import median

DIRECT = "directly"
CACHED = 0.9  # share of a prompt that a node must have; its last tokens are always computed
WARM_TURNS = 2


def added_latency(
    nodes: Sequence[Endpoint], ways: Mapping[str, Endpoint], agents: Sequence[Agent], pairs: int
) -> dict[str, dict[str, float]]:
    """By way, ``DIRECT`` among them: medians in ms, to the first token and to the end, and both less the direct ones.

    Raises SideError if a prompt was not cached after all.

    Args:
        nodes: asked directly, in turn.
        ways: entrances by the names of their routers.
        agents: of one turn each; sent in turn.
        pairs: how many requests go each way.
    """
    for _ in range(WARM_TURNS):
        for node in nodes:
            for agent in agents:
                play((agent,), node)
    answers: dict[str, list[Answer]] = {name: [] for name in (DIRECT, *ways)}
    for pair in range(pairs):
        targets = {DIRECT: nodes[pair % len(nodes)], **ways}
        for name in turned(list(targets), pair):
            ((answer,),) = play((agents[pair % len(agents)],), targets[name])
            if answer.cached < CACHED * answer.prompt:
                raise SideError(
                    f"{name}: {answer.cached} of {answer.prompt} tokens were cached, so nothing is compared"
                )
            answers[name].append(answer)
    return latency_summary(answers)


def latency_summary(answers: Mapping[str, Sequence[Answer]]) -> dict[str, dict[str, float]]:
    """The figures of these answers."""
    found = {
        name: {
            "first_ms": 1000 * median(one.first - one.began for one in some),
            "whole_ms": 1000 * median(one.ended - one.began for one in some),
        }
        for name, some in answers.items()
    }
    direct = dict(found[DIRECT])
    for figures in found.values():
        figures |= {f"added_{name}": figures[name] - value for name, value in direct.items()}
    return found


def turned(names: list[str], turn: int) -> list[str]:
    """The same names, another one first each turn."""
    first = turn % len(names)
    return names[first:] + names[:first]
