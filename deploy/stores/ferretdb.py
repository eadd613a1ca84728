"""FerretDB 1.x: a server that speaks MongoDB's protocol over SQLite files, for machines without MongoDB or Docker.

`deploy/stores/ferretdb` is its Go program; go.mod and go.sum pin it. The first start on a machine builds it.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from deploy.brokers.ports import LOOPBACK, free_port
from deploy.process import ChildProcess
from deploy.stores.port import StoreServer, StoreServerError

_SOURCES = Path(__file__).resolve().parent / "ferretdb"
_CACHE = Path(__file__).resolve().parents[2] / "build" / "ferretdb"
_MINIMUM_GO = (1, 24)
_BUILD_TIMEOUT_S = 900.0
_START_TIMEOUT_S = 20.0
_STOP_S = 10.0
_POLL_S = 0.02
_TAIL_LINES = 15
# PostgreSQL's backend is left out, and the toolchain that is installed is used: nothing else is downloaded.
_BUILD = ["go", "build", "-trimpath", "-buildvcs=false", "-tags=ferretdb_no_postgresql", "-ldflags=-s -w"]
_BUILD_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}


class FerretServer(StoreServer):
    """One FerretDB on a loopback port of its own, with a data folder that lives until `stop()`."""

    name = "ferretdb"
    real = False

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self._folder: Path | None = None
        self._child: ChildProcess | None = None

    def url(self, database: str) -> str:
        return f"mongodb://{LOOPBACK}:{self.port}/{database}"

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> None:
        if self._child is not None:
            raise StoreServerError("FerretDB was started before; `restart()` brings it up again")
        binary = ensure_binary()
        self._folder = Path(tempfile.mkdtemp(prefix="chatmesh-ferretdb-"))
        data = self._folder / "data"
        data.mkdir()
        argv = [str(binary), "-listen", f"{LOOPBACK}:{self.port}", "-data", str(data)]
        self._child = ChildProcess(argv, log_path=self._folder / "server.log", env={"HOME": str(self._folder)})
        try:
            self._start_and_wait(self._child)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(_STOP_S)
            self._child = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        self._started().kill()

    def restart(self) -> None:
        child = self._started()
        child.stop(_STOP_S)
        self._start_and_wait(child)

    def log_tail(self, lines: int = _TAIL_LINES) -> list[str]:
        """The last lines that it wrote."""
        return self._started().log_tail(lines)

    def _start_and_wait(self, child: ChildProcess) -> None:
        child.start()
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while "ready at" not in child.log_text():
            if not child.running or time.monotonic() > give_up_at:
                lines = "\n  ".join(child.log_tail(_TAIL_LINES)) or "(it wrote nothing)"
                raise StoreServerError(f"FerretDB at {LOOPBACK}:{self.port} is not ready; its last lines:\n  {lines}")
            time.sleep(_POLL_S)

    def _started(self) -> ChildProcess:
        if self._child is None:
            raise StoreServerError("FerretDB was not started")
        return self._child


def trouble() -> str | None:
    """Why FerretDB cannot run here; None: it can."""
    if _binary().exists():
        return None
    go = shutil.which("go")
    wanted = ".".join(map(str, _MINIMUM_GO))
    if go is None:
        return f"FerretDB is built with Go {wanted} or newer, which is not on PATH"
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or tuple(map(int, found.groups())) < _MINIMUM_GO:
        return f"FerretDB is built with Go {wanted} or newer, and {go} is {said.strip() or 'unknown'}"
    return None


def ensure_binary() -> Path:
    """The server's program, built unless it is there. Raises StoreServerError."""
    binary = _binary()
    binary.parent.mkdir(parents=True, exist_ok=True)
    with (binary.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may come here at once
        if not binary.exists():
            if (why := trouble()) is not None:
                raise StoreServerError(why)
            _build(binary)
    return binary


def _binary() -> Path:
    """Named after what it is built from."""
    sources = b"".join(path.read_bytes() for path in sorted(_SOURCES.iterdir()))
    return _CACHE / f"ferretdb-{hashlib.sha256(sources).hexdigest()[:16]}"


def _build(binary: Path) -> None:
    unfinished = binary.with_suffix(".unfinished")
    try:
        done = subprocess.run(
            [*_BUILD, "-o", str(unfinished), "."],
            cwd=_SOURCES,
            env={**os.environ, **_BUILD_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreServerError(f"FerretDB could not be built: {error}") from error
    if done.returncode != 0:
        raise StoreServerError(f"FerretDB could not be built:\n{(done.stdout + done.stderr)[-4000:]}")
    unfinished.rename(binary)
