"""Settings every test shares."""

from __future__ import annotations

import os

# Two cores and many processes: oversubscribed BLAS threads cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
