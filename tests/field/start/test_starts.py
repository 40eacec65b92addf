"""Starts of a stack: what cannot work is one line at once, and what works does not depend on the terminal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from quire_services.config.settings import GatewaySettings
from quire_services.process import port_check, reason
from quire_services.stack import serve, supervisor
from quire_services.stack.child import Child
from quire_services.stack.readiness import Readiness
from quire_services.stack.supervisor import Supervisor
from quire_services.stack.words import causes
from tests.support.quire_command import Quire
from tests.support.waits import wait_for

QUIRE = [sys.executable, "-P", "-m", "quire_services.cli"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory that no stack starts with, which shows only once something reads it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")
    return tmp_path / "model"


# --- ports -----------------------------------------------------------------------------------------------------


@pytest.mark.source("Kitura/BlueSocket#94", "yhirose/cpp-httplib#506")
def test_a_port_in_use_is_said_before_anything_starts(quire: Quire, tmp_path: Path, model: Path) -> None:
    """The port of the API or the admin API: one line that names the setting, and no run directory is made."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for flags, named in (
            ((f"--port={port}",), "gateway.port"),
            (("--port=0", f"--admin-port={port}"), "admin_port"),
        ):
            quire("serve", f"--model={model}", f"--run-dir={tmp_path / 'run'}", *flags).complains(named)
    quire("serve", f"--model={model}", "--port=8123", "--admin-port=8123").complains("gateway.admin_port")
    assert not (tmp_path / "run").exists()


@pytest.mark.source("Kitura/BlueSocket#94")
def test_port_zero_is_one_that_is_free() -> None:
    """The stack knows which before anything starts: its run directory and its readiness go by it."""
    assert port_check.check_ports(GatewaySettings(port=0)) > 0


@pytest.mark.source("yhirose/cpp-httplib#506")
def test_what_is_wrong_with_an_address() -> None:
    """A port in use is seen across wildcard addresses; no other port is advised where the host is what is wrong."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0", "localhost"):
            with pytest.raises(
                port_check.PortTaken, match=f"{host}:{port}: Address already in use; choose another port"
            ):
                port_check.check_ports(GatewaySettings(host=host, port=port))
    with pytest.raises(port_check.PortTaken, match=r"192\.0\.2\.1:0: .*; gateway\.host must be an address of this"):
        port_check.check_ports(GatewaySettings(host="192.0.2.1", port=0))
    assert [port_check.netloc(host, 80) for host in ("::1", "a.b")] == ["[::1]:80", "a.b:80"]


@pytest.mark.source("nodejs/node#12228")
def test_readiness_is_our_own_gateways(tmp_path: Path) -> None:
    """Whatever else answers 200 at /health on the port is not taken for it."""

    class Other(BaseHTTPRequestHandler):
        said = b"ok"

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.said)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        child = Child("gateway", [sys.executable, "-c", "input()"])
        child.process = subprocess.Popen([sys.executable, "-c", "0"])
        child.process.wait()
        readiness = Readiness(tmp_path, "127.0.0.1", server.server_port, "ours")
        for said, ready in (
            (b"ok", []),
            (b'{"instance": "theirs"}', []),
            (b"[]", []),
            (b'{"instance": "ours"}', ["gateway"]),
        ):
            Other.said = said
            assert readiness.among({"gateway": child}) == ready
        server.shutdown()


# --- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.source("datarobot/datarobot-user-models#2314")
def test_every_death_has_its_cause() -> None:
    """The signals that machines send by themselves are explained; no number makes it fail."""
    words = {
        signal.SIGKILL: "out of memory",
        signal.SIGBUS: "/dev/shm",
        signal.SIGILL: "processor",
        signal.SIGSYS: "seccomp",
    }
    for number, cause in words.items():
        assert number.name in causes.how_it_ended(-number)
        assert cause in causes.how_it_ended(-number)
    assert causes.how_it_ended(3) == "ended with exit code 3"
    assert "40" in causes.how_it_ended(-40)


@pytest.mark.process
@pytest.mark.source("datarobot/datarobot-user-models#2314")
def test_a_process_that_is_killed_at_every_start_is_given_up(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third time is the last one; the last line says which process, which signal and what is usually behind it."""
    real = subprocess.Popen
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]

    def started(argv: list[str], **options: object) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", "0"] if "prepare" in argv else killed, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", started)
    assert serve.main([f"--model={model}", f"--run-dir={tmp_path / 'run'}", "--port=0"]) == 1
    said = capsys.readouterr()
    assert said.out.count("starting it again") == serve.MAX_STARTS - 1
    last = said.err.splitlines()[-1]
    assert "kvstore: was killed by SIGKILL" in last
    assert "out of memory" in last
    assert not (tmp_path / "run").exists()


@pytest.mark.process
@pytest.mark.source("IBM/text-generation-inference#34")
def test_the_reason_is_the_last_line(tmp_path: Path, model: Path) -> None:
    """What a process refuses at the start is repeated at the end, where a person looks; not its exit code."""
    told = subprocess.run(
        [*QUIRE, "serve", f"--model={model}", f"--run-dir={tmp_path / 'run'}", "--port=0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 1
    last = told.stderr.splitlines()[-1]
    assert last.startswith("quire serve: prepare: ")
    assert str(model) in last


@pytest.mark.source("IBM/text-generation-inference#34")
def test_a_reason_goes_to_the_supervisor_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child's last reason is read after its end; a number that names another file writes nothing into it."""
    code = "from quire_services.process import reason; reason.report_reason('first'); reason.report_reason('no\\nway')"
    with Supervisor(lambda *_: None) as watching:
        child = watching.start(Child("c", [sys.executable, "-c", code], keep=False))
        wait_for(lambda: child.code is not None, "the child has ended", meanwhile=partial(watching.pump, 0.05))
    assert (child.code, child.reason) == (0, r"no\nway")

    other = tmp_path / "other"
    fd = os.open(other, os.O_RDWR | os.O_CREAT)
    monkeypatch.setenv(reason.REASON_VARIABLE, str(fd))
    reason.report_reason("not for this file")
    assert os.fstat(fd).st_size == 0
    os.close(fd)


# --- the terminal ----------------------------------------------------------------------------------------------


@pytest.mark.source("fish-shell/fish-shell#4007")
@pytest.mark.parametrize("ignored", [True, False])
def test_the_end_of_the_terminal(monkeypatch: pytest.MonkeyPatch, ignored: bool) -> None:
    """A stack under nohup outlives its terminal; any other is stopped by it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with Supervisor(lambda *_: None) as watching:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(
                lambda: watching.signals == (1 if ignored else 2),
                "the signals are counted",
                meanwhile=partial(watching.pump, 0.05),
            )
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
        assert signal.SIGHUP in supervisor.SIGNALS
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.process
@pytest.mark.source("fail2ban/fail2ban#2758")
def test_where_nothing_can_be_printed() -> None:
    """stdout closed, a full disk, a pipe without a reader: an answer that cannot be given is an error in one line."""
    for shell, code in ((">&-", (0,)), ("> /dev/full", (1,)), (">&- 2>&-", (0,)), ("<&-", (0,))):
        told = subprocess.run(
            ["sh", "-c", f'exec "$@" {shell}', "sh", *QUIRE, "--version"], capture_output=True, text=True, timeout=60
        )
        assert told.returncode in code, (shell, told)
        assert told.stderr.count("\n") == (1 if code == (1,) else 0), (shell, told)
        assert "Traceback" not in told.stderr


@pytest.mark.process
@pytest.mark.source("fail2ban/fail2ban#2758")
def test_progress_that_cannot_be_printed_stops_nothing(tmp_path: Path, model: Path) -> None:
    """A stack whose lines cannot be written goes on: here to the end of its start, which leaves nothing."""
    for shell in (">&- 2>&-", "> /dev/full"):
        told = subprocess.run(
            [
                "sh",
                "-c",
                f'exec "$@" {shell}',
                "sh",
                *QUIRE,
                "serve",
                f"--model={model}",
                f"--run-dir={tmp_path / 'run'}",
                "--port=0",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told.returncode == 1
        assert "Traceback" not in told.stderr
        assert not (tmp_path / "run").exists()
    assert told.stderr.splitlines()[-1].startswith("quire serve: prepare: ")
