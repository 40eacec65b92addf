"""Tables: a bench of clusters for people."""

from __future__ import annotations

from typing import Any

from bench.report.figures import table

Cells = list[dict[str, Any]]
Tables = list[tuple[str, str]]


def tables(cells: Cells, cpu: list[dict[str, float]]) -> Tables:
    """Of all cells that were measured so far; the last table is this machine's."""
    return [
        ("Steady", _steady(cells)),
        ("Events", _events(cells)),
        ("Losses", _losses(cells)),
        ("A prompt published to all nodes at once", _published(cells)),
        ("CPU of this machine", _cpu(cells, cpu)),
    ]


def _of(cell: dict[str, Any]) -> list[object]:
    return [f"{cell['nodes']:,}", cell["router"]]


def _steady(cells: Cells) -> str:
    rows = [
        [
            *_of(cell),
            f"{cell['hit_rate']:.1%}",
            cell["ttft_s"]["p50"],
            cell["ttft_s"]["p99"],
            f"{cell['busy']:.0%}",
            cell["busy_skew"]["max"],
            cell["busy_skew"]["p99"],
            cell["requests_skew"]["max"],
            cell["requests_skew"]["p99"],
        ]
        for cell in cells
    ]
    header = ["nodes", "router", "hit", "TTFT p50 s", "p99 s", "busy", "busy max / mean", "p99 / mean"]
    return table(rows, [*header, "requests max / mean", "p99 / mean"])


def _events(cells: Cells) -> str:
    rows = [
        [
            *_of(cell),
            cell["events"]["events_s_node"],
            cell["events"]["blocks_s_node"],
            cell["events"]["bytes_s_node"] / 1e3,
            cell["events"]["events_s"],
            cell["events"]["bytes_s"] / 1e6,
            cell["events"]["busiest_second_bytes"] / 1e6,
            f"{cell['index']['names']:,.0f}" if cell["index"]["names"] else None,
            f"{cell['index']['blocks']:,.0f}" if cell["index"]["names"] else None,
        ]
        for cell in cells
    ]
    header = ["nodes", "router", "events/s a node", "blocks/s a node", "kB/s a node", "events/s in all", "MB/s in all"]
    return table(rows, [*header, "busiest second MB", "index: names", "blocks"])


def _losses(cells: Cells) -> str:
    rows = []
    for cell in cells:
        for loss in cell["losses"]:
            share = f"{loss['share']:.0%}, {loss['nodes']:.0f}"
            hit, ttft = loss["hit_rate"], loss["ttft"]
            rows.append([*_of(cell), share, loss["moved"], hit["worst"], hit["back_s"], ttft["worst"], ttft["back_s"]])
    header = [
        "nodes",
        "router",
        "lost",
        "requests moved",
        "hit, worst / twin",
        "back s",
        "TTFT, worst / twin",
        "back s",
    ]
    return table(rows, header)


def _published(cells: Cells) -> str:
    rows = [
        [
            *_of(cell),
            cell["publish"]["ready_s"],
            cell["publish"]["ttft"]["worst"],
            cell["publish"]["ttft"]["back_s"],
            cell["publish"]["busiest_second_bytes"] / 1e6,
        ]
        for cell in cells
    ]
    return table(rows, ["nodes", "router", "last node ready s", "TTFT, worst / twin", "back s", "busiest second MB"])


def _cpu(cells: Cells, cpu: list[dict[str, float]]) -> str:
    rows: list[list[object]] = []
    for cell, of in zip(cells, cpu, strict=True):
        routes = cell["router"] == "kv_aware"
        index, choice = of["index_us_an_event"] if routes else None, of["choice_us_a_request"] if routes else None
        rows.append([*_of(cell), cell["rounds"], cell["requests"], of["run"], index, choice])
    return table(rows, ["nodes", "router", "rounds", "requests", "CPU s", "us an event", "us a choice"])
