"""A private PostgreSQL server on loopback, for tests and measurements: `with server(folder) as postgres`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOW_TO_GET_IT = "no PostgreSQL here: apt-get install postgresql, and pip install 'nas[postgres]'"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or list(
        filter(None, [shutil.which("initdb") and Path(str(shutil.which("initdb")))])
    )
    return found[-1].parent if found else None


@dataclass(frozen=True)
class Postgres:
    bin: Path
    data: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://nas@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
        command = [*user, str(self.bin / program), "-D", str(self.data), *arguments]
        with (self.data.parent / "server.log").open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self.run("pg_ctl", "-w", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Postgres]:
    """A server with its data under `folder`, whose parents every user can enter."""
    found = programs()
    assert found is not None, HOW_TO_GET_IT
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    postgres = Postgres(bin=found, data=folder / "data", port=port)
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    postgres.run("initdb", "--auth=trust", "--username=nas", "--no-sync", "--encoding=UTF8", "--locale=C")
    postgres.start()
    try:
        yield postgres
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            postgres.stop()
