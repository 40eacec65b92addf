"""A container engine for the tests of compose.yaml: the one that answers, else one of our own.

Ours is Debian's docker.io with the compose plugin of the next Debian, unpacked into a folder and never installed, and
of what it starts nothing stays. It touches neither addresses nor packet filters of the machine (no bridge of its own,
no iptables, no forwarding), so containers reach each other and the published port reaches them, and nothing reaches
the internet; images are built in the host's network. Its base image is a bare Debian by debootstrap with Python in
it, since nothing is pulled.

The folder keeps what was fetched and built, so that a second run takes a fraction of the first one's time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.waits import wait_for

PACKAGES = (
    "docker.io", "containerd", "runc", "iptables", "libip4tc2", "libip6tc2", "libnetfilter-conntrack3", "libnfnetlink0",
    "libnftnl11", "tini",
)  # fmt: skip
PLUGINS = ("docker-compose", "docker-buildx")
PLUGINS_OF = "trixie"
BASE_IMAGE, BARE_IMAGE = "quire-test/base", "quire-test/bare"
MIRROR = "http://deb.debian.org/debian"
NEEDED = ("apt-get", "dpkg-deb", "debootstrap")
BASE_DOCKERFILE = f"""
FROM {BARE_IMAGE}
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe && apt-get update \\
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv \\
    && rm -rf /var/lib/apt/lists/* /var/cache/apt
"""
PROMETHEUS_IMAGE = "quire-test/prometheus"
PROMETHEUS_DOCKERFILE = f"""
FROM {BASE_IMAGE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends prometheus \\
    && rm -rf /var/lib/apt/lists/* /var/cache/apt && install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
"""


class NoEngine(Exception):
    """No container engine can be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class ContainerEngine:
    """An engine that answers.

    Attributes:
        environ: what docker's commands are run with.
        base: the base image for builds; empty: the Dockerfile's own, which is pulled.
    """

    environ: Mapping[str, str]
    base: str = ""

    def docker(self, *arguments: str, check: bool = True, timeout: float = 900) -> str:
        """Run docker and return what it prints; what it complains goes into the failure."""
        done = subprocess.run(
            ["docker", *arguments],
            env=dict(self.environ),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout.strip()


@contextlib.contextmanager
def container_engine(folder: Path) -> Iterator[ContainerEngine]:
    """An engine; ``folder`` keeps what ours needs. COMPOSE_BASE names a base image that is there. Raises NoEngine."""
    there = ContainerEngine(os.environ, os.environ.get("COMPOSE_BASE", ""))
    if _answers(there):
        yield there
        return
    if os.geteuid():
        raise NoEngine("no container engine answers here, and to start one takes root")
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        raise NoEngine(f"no container engine answers here, and to start one takes {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        environ = _unpacked(folder)
    except subprocess.CalledProcessError as error:
        raise NoEngine(f"Debian's packages cannot be had: {error.stderr[-300:]}") from None
    with _daemon(folder, environ):
        engine = ContainerEngine(environ, BASE_IMAGE)
        _make_base(engine, folder)
        yield engine


def build_prometheus(engine: ContainerEngine) -> str:
    """An image of Debian's Prometheus, for an engine that pulls nothing; its name."""
    with tempfile.TemporaryDirectory() as context:
        (Path(context) / "Dockerfile").write_text(PROMETHEUS_DOCKERFILE)
        engine.docker("build", "--network=host", f"--tag={PROMETHEUS_IMAGE}", context)
    return PROMETHEUS_IMAGE


def _answers(engine: ContainerEngine) -> bool:
    """Whether an engine and a compose of the second version answer."""
    if shutil.which("docker", path=engine.environ.get("PATH")) is None:
        return False
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        engine.docker("info", "--format", "{{.ServerVersion}}", timeout=20)
        engine.docker("compose", "version", timeout=20)
        return True
    return False


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)


def _unpacked(folder: Path) -> dict[str, str]:
    """The packages in ``folder``, fetched once; the environment in which their programs are found."""
    root, home = folder / "root", folder / "home"
    if not (home / "cli-plugins/docker-compose").exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _fetch(Path(scratch), root)
            plugins = Path(scratch) / "plugins"
            _fetch_plugins(Path(scratch), plugins)
            shutil.copytree(plugins / "usr/libexec/docker/cli-plugins", home / "cli-plugins", dirs_exist_ok=True)
    path = f"{root}/usr/sbin:{root}/usr/bin:{os.environ['PATH']}"
    environ = {"PATH": path, "DOCKER_CONFIG": str(home), "DOCKER_HOST": f"unix://{folder}/docker.sock"}
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    return {**os.environ, **environ, "LD_LIBRARY_PATH": libraries, "XTABLES_LIBDIR": f"{libraries}/xtables"}


def _fetch(scratch: Path, into: Path) -> None:
    debs = scratch / "debs"
    debs.mkdir()
    _run("apt-get", "-o", "APT::Sandbox::User=root", "download", *PACKAGES, cwd=debs)
    for deb in debs.iterdir():
        _run("dpkg-deb", "-x", deb, into)
    (into / "usr/sbin/iptables").symlink_to("iptables-legacy")  # names in containers are resolved with its help


def _fetch_plugins(scratch: Path, into: Path) -> None:
    """From the next Debian, whose lists are read aside from the machine's own."""
    apt = scratch / "apt"
    for part in ("lists/partial", "archives/partial"):
        (apt / part).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keyring}] {MIRROR} {PLUGINS_OF} main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt,
        "APT::Sandbox::User": "root",
    }
    command = ["apt-get", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run(*command, "update")
    _run(*command, "download", *PLUGINS, cwd=apt)
    for deb in apt.glob("*.deb"):
        _run("dpkg-deb", "-x", deb, into)


@contextlib.contextmanager
def _daemon(folder: Path, environ: dict[str, str]) -> Iterator[None]:
    log = folder / "dockerd.log"
    command = [
        "dockerd", f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/docker.pid",
        f"--host={environ['DOCKER_HOST']}", "--bridge=none", "--iptables=false", "--ip6tables=false",
        "--ip-forward=false", "--ip-masq=false",
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
        try:
            engine = ContainerEngine(environ)
            wait_for(lambda: process.poll() is not None or _answers(engine), "dockerd", 60)
            if process.poll() is not None:
                raise NoEngine(f"dockerd does not run here: {log.read_text().strip().splitlines()[-1][-300:]}")
            yield
        finally:
            process.terminate()
            process.wait(60)


def _make_base(engine: ContainerEngine, folder: Path) -> None:
    if engine.docker("images", "--quiet", BASE_IMAGE):
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tree, context = Path(scratch) / "tree", Path(scratch) / "context"
        context.mkdir()
        _run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", tree, MIRROR)
        without = [f"--exclude=./{part}" for part in ("proc", "sys", "var/cache/apt", "var/lib/apt/lists")]
        _run("tar", *without, "-C", tree, "-cf", f"{scratch}/tree.tar", ".")
        engine.docker("import", f"{scratch}/tree.tar", BARE_IMAGE)
        (context / "Dockerfile").write_text(BASE_DOCKERFILE)
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", context)
        engine.docker("build", "--network=host", f"--tag={BASE_IMAGE}", str(context))
