"""The admin API: its own port, its own token, and the kvstore's own answers in the OpenAI shape."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from quire_proto.client.client import KVReader
from tests.support.gateway import GatewayProcess, Start, refused
from tests.support.kvstore import Kvstore
from tests.support.ports import free_port, listens
from tests.support.quire_command import Quire
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
SYSTEM = "the quick brown fox jumps over the lazy dog"
JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "jumps"}
PROMPT = {"id": "agent", "domain": "public", "system": SYSTEM}


class Admin:
    """A gateway with an admin port, a kvstore beside it, and the operator's client."""

    def __init__(self, gateway: GatewayProcess, port: int) -> None:
        self.gateway, self.url = gateway, f"http://127.0.0.1:{port}"
        self.token = (gateway.run_dir / "admin.token").read_text().strip()
        self.http = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {self.token}"}, timeout=30, trust_env=False
        )

    def error(self, status: int, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The error object of a request that ends with ``status``."""
        answer = self.http.request(method, path, **options)
        assert answer.status_code == status, answer.text
        error: dict[str, Any] = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[Admin]:
    port = free_port()
    gateway = GatewayProcess(model, f"--admin-port={port}").wait()
    kvstore = Kvstore(gateway.run_dir).start()
    wait_for(lambda: listens(port), "the admin port is open")
    gateway.engine()
    it = Admin(gateway, port)
    yield it
    it.http.close()
    assert kvstore.end(15) == 0
    assert gateway.stop() == 0


@pytest.fixture
def admin(running: Admin) -> Iterator[Admin]:
    """The running one, as it was before the test, with an engine that has been heard of lately."""
    running.gateway.engines[0].load(ready=True)
    wait_for(lambda: running.gateway.http.get("/health").status_code == 200, "the engine counts")
    yield running
    for member in running.http.get("/admin/groups").json()["data"]:
        running.http.delete(f"/admin/groups/{member['group']}/members/{member['tenant']}")
    running.http.delete("/admin/publications/agent")


def test_a_prompt_is_published_listed_and_taken_back(admin: Admin) -> None:
    """What the kvstore has is what is answered; the same again changes nothing."""
    first = admin.http.post("/admin/publications", json=PROMPT).json()
    again = admin.http.post("/admin/publications", json=PROMPT).json()

    assert first == again
    assert {key: first[key] for key in ("object", "id", "domain", "state")} == {
        "object": "publication", "id": "agent", "domain": "public", "state": "pending",
    }  # fmt: skip
    assert ["with tools begin otherwise" in note for note in first["notes"]] == [True]
    with KVReader(admin.gateway.run_dir) as reader:
        [there] = [p for p in reader.fetch_publications().publications if p.id == "agent"]
    assert first["tokens"] == len(there.tokens) // 4 > 5
    listed = admin.http.get("/admin/publications").json()
    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == ["p", "agent"]

    assert admin.http.delete("/admin/publications/agent").json() == {
        "object": "publication", "id": "agent", "deleted": True,
    }  # fmt: skip
    assert [row["id"] for row in admin.http.get("/admin/publications").json()["data"]] == ["p"]


def test_a_request_is_published_as_a_variant(admin: Admin) -> None:
    """Under an id that is there: both are listed, one is taken back by its hash, all of them by their id."""
    messages = [{"role": "system", "content": "the quick fox"}, USER]
    request = {"model": "tiny", "messages": messages, "tools": [{"function": {"name": "f"}}]}
    plain = admin.http.post("/admin/publications", json=PROMPT).json()
    body = {"id": "agent", "domain": "public", "request": request}
    tooled = admin.http.post("/admin/publications", json=body).json()
    assert admin.http.post("/admin/publications", json=body).json() == tooled

    def rows() -> list[tuple[str, str, int]]:
        listed = admin.http.get("/admin/publications").json()["data"]
        return [(row["id"], row["variant"], row["tokens"]) for row in listed if row["id"] != "p"]

    both = [("agent", one["variant"], one["tokens"]) for one in (plain, tooled)]
    assert rows() == both
    assert plain["variant"] != tooled["variant"]
    assert admin.error(404, "DELETE", "/admin/publications/agent/variants/00000000")["code"] == "not_found"
    assert admin.http.delete(f"/admin/publications/agent/variants/{plain['variant']}").json()["deleted"]
    assert rows() == both[1:]
    admin.http.post("/admin/publications", json=PROMPT)
    assert sorted(rows()) == sorted(both)
    admin.http.post("/admin/publications", json=PROMPT | {"replace": True})
    assert rows() == both[:1]
    admin.http.post("/admin/publications", json=body)
    admin.http.delete("/admin/publications/agent")
    assert rows() == []


def test_a_request_is_explained(admin: Admin) -> None:
    """The same as on the host: what is shared, and where another one parts from it; what is none is refused."""
    chat = {"model": "tiny", "messages": [{"role": "system", "content": SYSTEM}, USER]}
    made = admin.http.post("/admin/publications", json=PROMPT).json()

    def told(request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = admin.http.post("/admin/publications/explain", json={"request": request}).json()
        return answer

    assert told(chat)["matched"]["variant"] == made["variant"]
    other = told(chat | {"messages": [{"role": "system", "content": SYSTEM[:20] + "s"}, USER]})
    assert (other["object"], other["matched"]) == ("explanation", None)
    assert other["difference"]["field"] == "messages[0].content"
    assert other["advice"]
    assert admin.error(400, "POST", "/admin/publications/explain", json={"request": {}})["param"] == "request"
    assert admin.error(400, "POST", "/admin/publications/explain", json={"request": chat, "x": 1})["param"] == "x"


def test_a_remembered_request_is_published(start: Start, tmp_path: Path, quire: Quire) -> None:
    """By its id and its tenant, short or long, into that tenant's groups or to all; by no other tenant's name."""
    (tmp_path / "quire.toml").write_text("".join(
        f'[[tenants]]\nname = "{name}"\nkeys = ["sk-{name}"]\n' for name in ("ann", "bob")
    ))  # fmt: skip
    port = free_port()
    gateway = start(f"--admin-port={port}", "--remembered-requests=4", config=tmp_path / "quire.toml")
    kvstore = Kvstore(gateway.run_dir).start()
    gateway.engine(max_model_len=1 << 15)
    admin = Admin(gateway, port)
    admin.http.put("/admin/groups/sales/members/bob")
    for tenant, words, long in (("ann", "ann is a fox", ""), ("bob", "bob is a dog", "quick " * 4000)):
        answer = gateway.http.post(
            "/v1/chat/completions",
            headers={"authorization": f"Bearer sk-{tenant}", "x-request-id": "same"},
            json={"model": "tiny", "max_tokens": 1, "messages": [
                {"role": "system", "content": words}, {"role": "user", "content": "secret" + long},
            ]},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text

    def body(tenant: str, domain: str = "public", identity: str = "same") -> dict[str, Any]:
        return {"id": f"of-{tenant}", "domain": domain, "request_id": identity, "tenant": tenant}

    made = admin.http.post("/admin/publications", json=body("ann")).json()
    direct = {"id": "direct", "domain": "public", "system": "ann is a fox"}
    assert admin.http.post("/admin/publications", json=direct).json()["variant"] == made["variant"]
    assert admin.error(403, "POST", "/admin/publications", json=body("ann", "sales"))["code"] == "not_permitted"
    assert admin.http.post("/admin/publications", json=body("bob", "sales")).json()["domain"] == "sales"
    explained = admin.http.post("/admin/publications/explain", json={"request_id": "same", "tenant": "bob"}).json()
    assert explained["matched"]["id"] == "of-bob"
    assert admin.error(404, "POST", "/admin/publications", json=body("eve"))["code"] == "not_found"
    assert admin.error(404, "POST", "/admin/publications", json=body("ann", identity="other"))["code"] == "not_found"
    assert admin.error(400, "POST", "/admin/publications", json=body("ann") | {"tenant": ""})["param"] == "tenant"
    assert "secret" not in gateway.log.read_text()

    command = ("prefix", "publish", "--domain", "public", "--id", "cli", "--run-dir", gateway.run_dir)
    ran = quire(*command, "--request-id", "same", "--tenant", "bob", "--admin-port", port)
    assert (ran.code, ran.out.partition(":")[0]) == (0, "cli")
    quire(*command, "--request-id", "other", "--tenant", "bob", "--admin-port", port).complains("'other'")
    quire(*command, "--request-id", "same", "--tenant", "bob").complains("--admin-port")
    quire(*command, "--request-id", "same").complains("--tenant")
    quire(*command, "--request-id", "x", "--tenant", "bob", "--admin-port", free_port()).complains("no gateway answers")
    admin.http.close()
    assert kvstore.end(15) == 0


def test_requests_are_forgotten_unless_wanted(admin: Admin) -> None:
    """The error says by which setting they would be kept."""
    body = {"id": "agent", "domain": "public", "request_id": "x", "tenant": "default"}
    assert "--remembered-requests" in admin.error(404, "POST", "/admin/publications", json=body)["message"]


def test_members_join_and_leave(admin: Admin) -> None:
    """A member is one for every caller; leaving gives the group another generation."""
    assert admin.http.put("/admin/groups/sales/members/ann").json()["data"] == [
        {"object": "member", "group": "sales", "tenant": "ann", "generation": 1}
    ]
    admin.http.put("/admin/groups/sales/members/bob")
    left = admin.http.delete("/admin/groups/sales/members/bob").json()["data"]

    assert left == [{"object": "member", "group": "sales", "tenant": "ann", "generation": 2}]
    assert admin.http.get("/admin/groups").json()["data"] == left


@pytest.mark.parametrize(
    ("changes", "status", "param", "code"),
    [
        ({"id": "../x"}, 400, "id", None),
        ({"domian": "x"}, 400, "domian", None),
        ({"domain": 5}, 400, "domain", None),
        ({"system": ""}, 400, "system", None),
        ({"system": "\ud800"}, 400, "system", None),
        ({"system": "x " * 600}, 400, "system", None),
        ({"system": None}, 400, "system", None),
        ({"request": {}}, 400, "system", None),
        ({"system": None, "request": {"model": "m"}}, 400, "request", None),
        ({"system": None, "request": {"model": "m", "messages": [USER]}}, 400, "request", None),
        ({"system": None, "request": {"model": "m", "messages": [USER], "tools": [{}]}}, 400, "request", None),
        ({"system": None, "request": {"model": "m", "messages": [USER]}, "tools": [{}]}, 400, "tools", None),
        ({"tools": []}, 400, "tools", None),
        ({"tools": [5]}, 400, "tools[0]", None),
        ({"domain": "nobody"}, 400, None, "bad_field"),
        ({"id": "p", "domain": "research"}, 409, None, "conflict"),
        ({"system": "quick brown fox " * 40}, 409, None, "conflict"),
    ],
)
def test_a_wrong_publication_is_refused(
    admin: Admin, changes: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    """By field where one is wrong, by the kvstore's reason where it refuses; nothing is published."""
    admin.http.put("/admin/groups/research/members/ann")
    body = json.dumps(PROMPT | changes)
    error = admin.error(status, "POST", "/admin/publications", content=body, headers=JSON)

    assert (error["param"], error["code"]) == (param, code)
    assert error["message"]
    assert [row["id"] for row in admin.http.get("/admin/publications").json()["data"]] == ["p"]


def test_what_is_not_there_is_not_found(admin: Admin) -> None:
    """Unknown publications, unknown paths, and the tenants' paths on this port."""
    assert admin.error(404, "DELETE", "/admin/publications/gone")["code"] == "not_found"
    admin.error(404, "GET", "/v1/models")
    admin.error(405, "PUT", "/admin/publications")
    assert admin.gateway.http.get("/admin/publications").status_code == 404


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer x", "Basic {}", "Bearer {}x", "{}"])
def test_only_the_token_opens_it(admin: Admin, header: str | None) -> None:
    """Whatever else is sent is 401, on any path, and changes nothing."""
    headers = {} if header is None else {"authorization": header.format(admin.token)}
    for method, path in (("GET", "/admin/publications"), ("DELETE", "/admin/publications/p"), ("GET", "/health")):
        with httpx.Client(base_url=admin.url, trust_env=False) as client:
            answer = client.request(method, path, headers=headers)
        assert answer.status_code == (404 if path == "/health" else 401)
        assert answer.json()["error"]["type"]
    assert [row["id"] for row in admin.http.get("/admin/publications").json()["data"]] == ["p"]


def test_without_a_kvstore_it_is_unavailable(start: Start) -> None:
    """503 with Retry-After, not an error of ours; and the token is the owner's alone, and never in the log."""
    port = free_port()
    gateway = start(f"--admin-port={port}")
    wait_for(lambda: listens(port), "the admin port is open")
    admin = Admin(gateway, port)
    answer = admin.http.get("/admin/groups")
    admin.http.close()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert stat.S_IMODE((gateway.run_dir / "admin.token").stat().st_mode) == 0o600
    assert admin.token not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0o600, "No such file"),
        (b"", 0o600, "one line"),
        (b"short", 0o600, "one line"),
        (b"a" * 20 + b"\n" + b"b" * 20, 0o600, "one line"),
        (b"\xff" * 20, 0o600, "one line"),
        (b"a" * 20, 0o644, "chmod 600"),
    ],
)
def test_a_token_file_that_is_none_stops_the_start(
    model: Path, tmp_path: Path, content: bytes | None, mode: int, reason: str
) -> None:
    """With its path and the reason."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)

    told = refused(model, f"--admin-port={free_port()}", f"--admin-token-file={file}")
    assert str(file) in told
    assert reason in told


def test_a_quota_is_set_and_listed(admin: Admin) -> None:
    """What the kvstore answers to ``quire tenant`` is answered here; what it refuses is an error with its reason."""
    put = admin.http.put("/admin/tenants/acme/quota", json={"limit": 8, "guarantee": 2}).json()
    assert {key: put[key] for key in ("object", "tenant", "limit", "guarantee", "weight")} == {
        "object": "tenant", "tenant": "acme", "limit": 8, "guarantee": 2, "weight": 100,
    }  # fmt: skip
    assert put in admin.http.get("/admin/tenants").json()["data"]

    too_much = admin.error(409, "PUT", "/admin/tenants/acme/quota", json={"limit": 1, "guarantee": 2})
    assert "is more than the limit" in too_much["message"]
    admin.error(400, "PUT", "/admin/tenants/acme/quota", json={"limit": -1})
    admin.error(400, "PUT", "/admin/tenants/acme/quota", json={"limits": 1})


def test_what_is_too_large_for_a_node_s_share_is_claimed(admin: Admin) -> None:
    """Where the cluster's limit has room, a request that an engine refuses for good is told when to come again, and
    the follower what it needs; beyond that, and without a follower's word, it is refused for good."""
    engine, steps = admin.gateway.engines[0], admin.gateway.engines[0].steps
    word = {"version": 1, "shares": {"default": 40}, "most": {"default": 70}}

    def refused(missing: int) -> httpx.Response:
        before = len(engine.requests)
        with ThreadPoolExecutor() as pool:
            body = {"model": "tiny", "prompt": "the quick", "max_tokens": 4}
            answer = pool.submit(admin.gateway.http.post, "/v1/completions", json=body)
            wait_for(lambda: len(engine.requests) > before, "the engine has it")
            engine.fail_all("over_limit", "the request needs too much", missing)
            return answer.result(30)

    engine.steps = 0
    try:
        assert refused(30).json()["error"]["code"] == "tenant_limit_exceeded"
        assert admin.http.put("/admin/declarations", json=word).json()["needs"] == {}
        assert refused(31).status_code == 400
        now = refused(30)
        assert (now.status_code, now.json()["error"]["code"]) == (429, "tenant_limit")
        assert int(now.headers["retry-after"]) >= 5
        assert admin.http.put("/admin/declarations", json=word).json()["needs"] == {"default": 70}
    finally:
        engine.steps = steps
