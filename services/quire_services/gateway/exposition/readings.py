"""Readings: values of metrics at one moment, and the text that Prometheus reads.

The text is prometheus-client's, so that names, escapes and numbers are as every reader of the format expects. It takes
some 10 us a line: so it is made a metric at a time, between other work of the loop. The library is imported when it is
first asked for, which a gateway's start does not wait for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

from quire_proto.wire.histogram import Distribution

from .catalogue import COUNTER, HISTOGRAM, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Value = float | Distribution


class Readings:
    """Values of some metrics. What is not read is not shown.

    Args:
        metrics: those that may be read, in the order in which they are shown.
    """

    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        self._metrics = {metric.name: metric for metric in metrics}
        self._values: defaultdict[str, dict[tuple[str, ...], Value]] = defaultdict(dict)

    def add(self, name: str, value: Value, *labels: str) -> None:
        """Enter a value; labels in the order of the catalogue."""
        metric = self._metrics[name]
        assert len(labels) == len(metric.labels), name
        assert isinstance(value, Distribution) == (metric.kind == HISTOGRAM), name
        self._values[name][labels] = value

    async def text(self) -> bytes:
        """What is scraped."""
        pieces = []
        for metric in self._metrics.values():
            if values := self._values.get(metric.name):
                pieces.append(_text(metric, values))
                await asyncio.sleep(0)
        return b"".join(pieces)


def _text(metric: Metric, values: dict[tuple[str, ...], Value]) -> bytes:
    from prometheus_client import generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    family: Any
    if metric.kind == HISTOGRAM:
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in values.items():
            assert isinstance(value, Distribution)
            bounds = [*map(floatToGoString, value.bounds), "+Inf"]
            buckets = list(zip(bounds, map(float, accumulate(value.counts)), strict=True))
            family.add_metric(labels, buckets, value.total)
    else:
        kind: Any = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=metric.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
    one_family: Any = SimpleNamespace(collect=lambda: [family])
    text: bytes = generate_latest(one_family)
    return text
