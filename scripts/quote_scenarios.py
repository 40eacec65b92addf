"""Pages quote scenarios: puts what the files of tests/scenarios say now into every page that quotes them.

A quote is a fenced block whose first line names the file, from the root of the repository:

    ```scenario tests/scenarios/claims/second_waits_for_first.txt
    ```

``python scripts/quote_scenarios.py`` fills and refreshes all of them; the suite fails while one is stale.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUOTE = re.compile(r"^```scenario (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def quoted(page: str, root: Path = ROOT) -> str:
    """A page with its quotes as the files are. Raises OSError for a file that is not there."""
    return QUOTE.sub(lambda quote: f"```scenario {quote[1]}\n{(root / quote[1]).read_text()}```", page)


def pages(root: Path = ROOT) -> list[Path]:
    """Every page that git knows, or will once it is added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=root,
        check=True,
        capture_output=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := root / name).exists()]


def main() -> int:
    """Refresh all pages; says which changed."""
    for path in pages():
        page = path.read_text()
        if (now := quoted(page)) != page:
            path.write_text(now)
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
