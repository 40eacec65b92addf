"""Write down what agent frameworks send: ``record_framework_chats.py [ENVIRONMENTS]``.

Runs ``tests/support/framework_chat.py`` in the environment of each framework (``.clients/NAME`` or another folder)
against a server of its own that keeps the first request, and writes its body, as far as a prompt is made of it, to
``tests/services/gateway/published_prompts/requests/NAME.json``. What is there is what tests publish and match; run it
again when frameworks have new versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests" / "support" / "framework_chat.py"
REQUESTS = ROOT / "tests" / "services" / "gateway" / "published_prompts" / "requests"
FRAMEWORKS = (
    "openai", "litellm", "langchain", "openai_agents", "pydantic_ai", "autogen", "instructor", "llamaindex", "crewai",
    "smolagents",
)  # fmt: skip
KEPT = ("model", "messages", "tools", "tool_choice")
TIMEOUT_S = 120


class Recorder(BaseHTTPRequestHandler):
    """Keeps bodies and answers nothing that a framework could use: one chat is enough."""

    seen: list[dict[str, Any]]

    def do_POST(self) -> None:
        """Keep the body."""
        self.seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        body = b'{"error": {"message": "recorded", "type": "invalid_request_error", "param": null, "code": null}}'
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


def recorded(python: Path, framework: str) -> dict[str, Any] | None:
    """The body that a framework sends; None if it sends none."""
    seen: list[dict[str, Any]] = []
    handler = type("Handler", (Recorder,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [str(python), str(PROGRAM), framework, f"http://127.0.0.1:{server.server_port}/v1", "sk-any", "m"]
        subprocess.run([*command, "How is Rome?"], capture_output=True, timeout=TIMEOUT_S, check=False)
        server.shutdown()
    return {key: seen[0][key] for key in KEPT if key in seen[0]} if seen else None


def main(environments: Path) -> int:
    """Record all frameworks that have an environment; the exit code."""
    REQUESTS.mkdir(exist_ok=True)
    failed = 0
    for framework in FRAMEWORKS:
        body = recorded(environments / framework / "bin" / "python", framework)
        if body is None:
            sys.stderr.write(f"{framework}: sent nothing\n")
            failed = 1
            continue
        (REQUESTS / f"{framework}.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".clients"))
