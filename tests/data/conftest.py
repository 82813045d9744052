from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torchvision
from idx_files import FILES, write_toy

from nas import cli


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    write_toy(tmp_path / "MNIST" / "raw")
    return tmp_path


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served on the loopback address, and torchvision's MNIST told to download from there."""
    folder = tmp_path / "mirror"
    write_toy(folder)
    resources = []
    for name in FILES:
        packed = gzip.compress((folder / name).read_bytes())
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", "http://127.0.0.1:9/b/"])


@pytest.fixture
def image_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of own images in a folder of the test's own."""
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "folders"


@pytest.fixture
def nas(capfd):
    """Runs a command in this process, which succeeds, and gives its standard output."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main(list(arguments))
        captured = capfd.readouterr()
        assert not left.value.code, captured.err
        return captured.out

    return run
