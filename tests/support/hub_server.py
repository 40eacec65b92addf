"""A local stand-in of the Hugging Face hub: the HTTP endpoints that huggingface_hub asks, with their headers.

Repositories are directories of files. Weights are answered as the hub answers large files: a redirect to another path,
which knows no token and resumes where it is asked to. Errors carry the hub's status and ``X-Error-Code``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")


@dataclass
class Repository:
    """A model of the hub.

    Attributes:
        files: what it holds, by name.
        commits: branch or tag -> commit.
        gated: only ``members``, by token, may read it.
        private: only ``members`` may know of it.
        sizes: what it says of files' sizes where that is not the truth.
    """

    files: dict[str, bytes]
    commits: dict[str, str] = field(default_factory=lambda: {"main": "1" * 40})
    gated: bool = False
    private: bool = False
    members: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path, **options: object) -> Repository:
        """One with the files of a directory."""
        files = {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}
        return cls(files, **options)  # type: ignore[arg-type]

    def commit(self, revision: str) -> str:
        """What a branch, tag or commit means, "" if nothing."""
        return revision if revision in self.commits.values() else self.commits.get(revision, "")


@dataclass
class Hub:
    """The server's state; tests change it as it runs.

    Attributes:
        tokens: those that it knows.
        asked: method, path and token of every request.
        broken: status that everything is answered with, 0 for none.
        cut_at: bytes after which a file's connection is cut, once.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    broken: int = 0
    cut_at: int = 0

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return [path.rpartition("/")[2] for method, path, _ in self.asked if method == "GET" and "/api/" not in path]


@contextmanager
def hub_server() -> Iterator[Hub]:
    """The hub, listening on the loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are kept in ``asked``."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        self.hub.asked.append((self.command, path, token))
        if self.hub.broken:
            return self._error(self.hub.broken, "", "broken")
        if path.startswith("/cdn/"):
            digest, _, name = path.removeprefix("/cdn/").partition("/")
            return self._bytes(self._blob(digest, name), {})
        if token and token not in self.hub.tokens:
            return self._error(401, "", "Invalid credentials in Authorization header")
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self._api(name, revision or "main", token)
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._file(name, revision, file, token)

    def _repository(self, name: str, token: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and token not in found.members):
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        return found

    def _api(self, name: str, revision: str, token: str) -> None:
        repository = self._repository(name, token)
        if repository is None:
            return None
        commit = repository.commit(revision)
        if not commit:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [
            {"rfilename": file, "size": repository.sizes.get(file, len(content)), "blobId": _digest(content)[:40]}
            for file, content in repository.files.items()
        ]
        body = {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        return self._bytes(json.dumps(body).encode(), {"content-type": "application/json"})

    def _file(self, name: str, revision: str, file: str, token: str) -> None:
        repository = self._repository(name, token)
        if repository is None:
            return None
        commit = repository.commit(revision)
        if not commit:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if repository.gated and token not in repository.members:
            return self._error(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted")
        if file not in repository.files:
            return self._error(404, "EntryNotFound", "Entry not found")
        content = repository.files[file]
        heads = {"x-repo-commit": commit, "etag": f'"{_digest(content)}"'}
        if not file.endswith(LARGE):
            return self._bytes(content, heads)
        size = str(repository.sizes.get(file, len(content)))
        heads |= {"x-linked-size": size, "x-linked-etag": f'"{_digest(content)}"'}
        place = self.hub.url.replace("127.0.0.1", "localhost")  # another host, which is given no token
        return self._bytes(b"", heads | {"location": f"{place}/cdn/{_digest(content)}/{file}"}, 302)

    def _blob(self, digest: str, name: str) -> bytes:
        found = [r.files[name] for r in self.hub.repositories.values() if name in r.files]
        return next(content for content in found if _digest(content) == digest)

    def _bytes(self, content: bytes, heads: dict[str, str], status: int = 200) -> None:
        size, asked = len(content), self.headers.get("range", "")
        if asked and status == 200:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            status, content = 206, content[start:]
            heads = heads | {"content-range": f"bytes {start}-{size - 1}/{size}"}
        self.send_response(status)
        for key, value in {"content-length": str(len(content)), "accept-ranges": "bytes", **heads}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cut_at
        if cut and len(content) > cut:
            self.hub.cut_at = 0
            self.wfile.write(content[:cut])
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content)

    def _error(self, status: int, code: str, message: str) -> None:
        heads = {"x-error-message": message} | ({"x-error-code": code} if code else {})
        self._bytes(json.dumps({"error": message}).encode(), heads, status)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
