"""A Ray cluster launched onto this machine through ssh, apart from whatever else runs here.

ssh starts `sshd -i` itself instead of connecting, so nothing listens; keys, HOME, Ray's folder and ports are its own.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "configs" / "cluster" / "on_premises.yaml"
NEEDED = ("ssh", "ssh-keygen", "/usr/sbin/sshd", "rsync")

# `ray stop` ends all Ray processes of a machine, and `ray down` calls it: here it ends the children of this folder's.
_RAY = """#!{python}
import os, sys
sys.path.insert(0, {repository!r})
if sys.argv[1:2] == ["stop"]:
    from tests.pipelines.launcher import stop
    stop({tmp!r})
else:
    os.execv({ray!r}, ["ray", *sys.argv[1:]])
"""

_SSHD = """HostKey {folder}/host
AuthorizedKeysFile {folder}/id.pub
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
PidFile none
SetEnv HOME={folder}/home RAY_TMPDIR={folder} RAY_ADDRESS={address} MPLCONFIGDIR={folder}/home OMP_NUM_THREADS=1
"""


def missing() -> list[str]:
    """What the launcher needs and this machine has not."""
    return [name for name in NEEDED if not shutil.which(name)]


def processes(folder: str, within: str = "") -> list[psutil.Process]:
    """Processes whose command line names the folder, or what is `within`, Ray's with the folder for their RAY_TMPDIR,
    and all that they started; not this one and what called it."""
    ours = {process.pid for process in psutil.Process().parents()} | {os.getpid()}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid not in ours and _is_of(process, folder, within):
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except psutil.Error:
            continue  # it ended meanwhile, or is not ours to see
    return list(found.values())


def _is_of(process: psutil.Process, folder: str, within: str) -> bool:
    words = process.cmdline()
    if any(folder + within in word for word in words):
        return True
    # The server of Ray's clients names no folder, and outlives the process that started it.
    is_rays = any(word.startswith("ray::") or "ray.util.client" in word for word in words)
    return is_rays and process.environ().get("RAY_TMPDIR") == folder


def stop(folder: str) -> None:
    """End the Ray that keeps its files in `folder`/ray."""
    left = processes(folder, "/ray/session")
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):  # one ends with another
            process.terminate()
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Cluster:
    """`ray up`, `ray submit` and `ray down` with the shipped file, here; `folder` has a short path, for sockets."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.ports = _free_ports(8)
        self.address = f"127.0.0.1:{self.ports[0]}"
        self.file = folder / "cluster.yaml"
        self.proxy = f"/usr/sbin/sshd -i -f {folder}/sshd_config"
        self._prepare()

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd's, empty; packages make it when they start the service
        for key in ("id", "host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key], check=True)
        (self.folder / "sshd_config").write_text(_SSHD.format(folder=self.folder, address=self.address))
        node = self.home / "headwater-env" / "bin"
        node.mkdir(parents=True)
        python = Path(sys.executable)
        _script(node / "python", f'#!/bin/sh\nPYTHONPATH="$HOME/headwater" exec {python} "$@"\n')
        ray = str(python.with_name("ray"))
        _script(node / "ray", _RAY.format(python=python, repository=str(REPOSITORY), tmp=str(self.folder), ray=ray))
        # The client reads ~/.ssh of the account, whatever HOME is, and would make it.
        client = self.folder / "bin"
        client.mkdir()
        _script(client / "ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} -F /dev/null "$@"\n')
        # From the head Ray knows no proxy, and ssh looks for its key where the account's home is.
        proxy = f"-i {self.folder}/id -o 'ProxyCommand={self.proxy}'"
        _script(node / "ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} -F /dev/null {proxy} "$@"\n')
        (self.folder / "token").write_text("b" * 64)
        (self.folder / "token").chmod(0o600)

    def config(self, workers: int) -> dict[str, Any]:
        """The shipped file with this machine for all nodes, on ports of its own and without installing.

        Each of the `workers` has one CPU and what it says is a GPU.
        """
        config: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
        ports = zip(_PORTS, self.ports, strict=True)
        head = (
            config["head_start_ray_commands"][-1].replace("--port=6379", "").replace("--metrics-export-port=8080", "")
        )
        head += "".join(f" --{option}={port}" for option, port in ports)
        head += " --min-worker-port=0 --max-worker-port=0 --num-cpus=2 --object-store-memory=200000000"
        head += " --include-dashboard=false"
        # The shipped `ray stop` before it would end the other nodes, which are this machine too.
        worker = config["worker_start_ray_commands"][-1].replace(":6379", f":{self.ports[0]}")
        worker = worker.replace("--metrics-export-port=8080", "--dashboard-agent-listen-port=0")
        worker += " --num-cpus=1 --num-gpus=1 --object-store-memory=100000000"
        return {
            **config,
            "cluster_name": f"test-{self.folder.name}",
            "max_workers": workers,
            "provider": {
                "type": "local",
                "head_ip": "127.0.0.1",
                "worker_ips": [f"127.0.0.{2 + number}" for number in range(workers)],
            },
            "auth": {
                "ssh_user": getpass.getuser(),
                "ssh_private_key": str(self.folder / "id"),
                "ssh_proxy_command": self.proxy,
            },
            "file_mounts": {
                "~/headwater": str(REPOSITORY),
                "~/.ray/auth_token": str(self.folder / "token"),
            },
            "setup_commands": [line for line in config["setup_commands"] if "headwater-env" not in line],
            "head_start_ray_commands": [*config["head_start_ray_commands"][:-1], head],
            "worker_start_ray_commands": [worker],
        }

    def environment(self) -> dict[str, str]:
        """Of the client: another HOME too, so that nothing of the account's own is read or written."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        client = self.folder / "client"
        client.mkdir(exist_ok=True)
        return {
            **kept,
            "HOME": str(client),
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "RAY_TMPDIR": str(self.folder),
            "TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
        }

    def ray(self, *words: str, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `ray ...` in the repository; stdout holds what both streams said."""
        return subprocess.run(
            [Path(sys.executable).with_name("ray"), *words],
            cwd=REPOSITORY, env={**self.environment(), **(more or {})}, timeout=240,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def up(self, workers: int = 0) -> None:
        """Twice, if need be: Ray gives a node 30 seconds to start, too few on a machine that does much else."""
        self.file.write_text(yaml.safe_dump(self.config(workers)))
        for _ in range(2):
            done = self.ray("up", "--yes", str(self.file))
            if done.returncode == 0:
                return
            # `ray down` finds no head where `ray up` failed, and leaves what had started.
            stop(str(self.folder))
        raise AssertionError(done.stdout[-3000:])

    def submit(self, job: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.ray("submit", str(self.file), f"pipelines/{job}.py", "--", *words)

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.ray("down", "--yes", str(self.file))


# Ray's defaults would meet another cluster on the same machine.
_PORTS = (
    "port", "dashboard-port", "ray-client-server-port", "metrics-export-port", "node-manager-port",
    "object-manager-port", "dashboard-agent-listen-port", "runtime-env-agent-port",
)  # fmt: skip


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
