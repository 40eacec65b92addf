"""Makes the model that a stack serves where none is named: demo_model.py FOLDER. Random, so its words mean nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).parent))  # the image sets PYTHONSAFEPATH

from tiny import make_model

if __name__ == "__main__":
    disable_progress_bar()
    folder = Path(sys.argv[1])
    made = make_model(folder / ".making", vocab=512, layers=4, hidden=256, heads=8, kv_heads=4, max_len=2048)
    for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):  # what is looked for comes last
        file.chmod(0o644)
        os.replace(file, folder / file.name)
    made.rmdir()
    print(f"demo: {folder} holds a tiny random model; set MODEL to serve one of your own", flush=True)
