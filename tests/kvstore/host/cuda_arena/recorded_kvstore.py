"""A kvstore process over recorded driver calls.

python -m tests.kvstore.host.cuda_arena.recorded_kvstore RECORDER.json FLAGS...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from quire_services.daemons.kvstored import main
from tests.kvstore.host.cuda_arena.recorder import Recorder

if __name__ == "__main__":
    recorder = Recorder(**json.loads(Path(sys.argv[1]).read_text()))
    sys.modules["cuda.bindings.driver"] = recorder  # type: ignore[assignment]
    sys.exit(main(sys.argv[2:]))
