"""FerretDB 1.x: a server that speaks MongoDB's protocol over SQLite files, for machines without MongoDB or Docker.

`deploy/stores/ferretdb` is its Go program; go.mod and go.sum pin it. The first start on a machine builds it.
"""

import fcntl
import hashlib
import shutil
import tempfile
import time
from pathlib import Path

from deploy.brokers.ports import LOOPBACK, free_port
from deploy.golang import go_build, go_trouble
from deploy.process import ChildProcess
from deploy.programs import ProgramError
from deploy.stores.port import StoreServer, StoreServerError

_SOURCES = Path(__file__).resolve().parent / "ferretdb"
_CACHE = Path(__file__).resolve().parents[2] / "build" / "ferretdb"
_MINIMUM_GO = (1, 24)
_START_TIMEOUT_S = 20.0
_STOP_S = 10.0
_POLL_S = 0.02
_TAIL_LINES = 15
# What PostgreSQL's backend needs would be downloaded too.
_WITHOUT_POSTGRESQL = ("-tags=ferretdb_no_postgresql",)


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
    why = None if _binary().exists() else go_trouble(_MINIMUM_GO)
    return why and f"FerretDB is built with {why}"


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
    try:
        go_build(".", _SOURCES, binary, _WITHOUT_POSTGRESQL)
    except ProgramError as error:
        raise StoreServerError(f"FerretDB could not be built: {error}") from error
