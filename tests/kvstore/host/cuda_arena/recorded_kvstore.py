"""A kvstore process over recorded driver calls.

python -m tests.kvstore.host.cuda_arena.recorded_kvstore RECORDER-JSON FLAGS...
"""

from __future__ import annotations

import json
import sys

from quire_services.daemons.kvstored import main
from tests.kvstore.host.cuda_arena.recorder import Recorder

if __name__ == "__main__":
    sys.modules["cuda.bindings.driver"] = Recorder(**json.loads(sys.argv[1]))  # type: ignore[assignment]
    sys.exit(main(sys.argv[2:]))
