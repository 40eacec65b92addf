"""A process that attaches, allocates ten blocks, says so, and waits to be killed or stopped."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from quire_proto import messages as m
from tests.support.raw_client import Client

client = Client(Path(sys.argv[1]))
client.attach()
assert client.ask("allocate", m.Allocate(1, "t", 40), ordered=True).code == ""
print("holding", flush=True)
while True:
    client.ask("heartbeat", m.Heartbeat())
    time.sleep(0.05)
