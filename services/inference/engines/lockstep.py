"""The processes that hold one model together: where each stands, who starts them, how they find each other.

Whoever starts the ranks says where they stand by the variables of torchrun. `torchrun` does, also over several
machines; without it the first rank starts the others on its own machine (`Followers`), so that an operator has one
process to start, to signal and to watch.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import SettingsError

_log = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"
_ORPHAN_CHECK_S = 0.25
HASH_SEED = "PYTHONHASHSEED"

OnLoss = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands: `rank` of `ranks`, the `local_rank`-th on its machine (it takes that device)."""

    rank: int
    ranks: int
    local_rank: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Place | None":
        """As torchrun says it; None for a process that nobody placed. Raises SettingsError."""
        if "RANK" not in environ:
            return None
        try:
            return cls(int(environ["RANK"]), int(environ["WORLD_SIZE"]), int(environ["LOCAL_RANK"]))
        except (KeyError, ValueError) as error:
            raise SettingsError(f"RANK is set, so WORLD_SIZE and LOCAL_RANK must be numbers too: {error}") from error


def check_hashes_alike(environ: Mapping[str, str]) -> None:
    """Raises SettingsError unless strings hash alike in all ranks.

    transformers keeps what is to be cancelled in a set of ids. The order in which it frees their cache decides which
    block is evicted first, so what a later prompt finds in the cache: ranks that differ there read different lengths
    and never meet again. `python -m services.inference` sees to it.
    """
    if not environ.get(HASH_SEED, "").isdigit():
        raise SettingsError(f"several ranks need one {HASH_SEED}: set it to a number")


class Followers:
    """The ranks behind the first, as children of this process; they run the same command and end with it.

    The rendezvous is served here, as torchrun's agent would serve it.
    """

    def __init__(self, ranks: int, command: Sequence[str] = (sys.executable, "-m", "services.inference")) -> None:
        self._ranks = ranks
        self._command = command
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._listener: socket.socket | None = None
        self._store: Any = None
        self._expected = False

    def start(self, on_loss: OnLoss) -> None:
        """Place this process as the first rank and start the others; then `serve_rendezvous` within their patience.

        `on_loss` is called, in a thread, with what happened to a rank that ends before `stop`.
        """
        self._listener = socket.create_server((_LOOPBACK, 0))
        os.environ.update(self._variables(0))
        for rank in range(1, self._ranks):
            process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._variables(rank)},
                stdin=subprocess.DEVNULL,
                process_group=0,  # a terminal's Ctrl-C is for the first rank: the others end when it says so
            )
            self._processes[rank] = process
            threading.Thread(
                target=self._watch, args=(rank, process, on_loss), name=f"watch rank {rank}", daemon=True
            ).start()

    def serve_rendezvous(self) -> None:
        """Let the ranks find each other; imports torch."""
        if self._listener is None:
            raise RuntimeError("start comes first")
        port = self._listener.getsockname()[1]
        self._store = _distributed().TCPStore(  # kept: it serves as long as it lives
            _LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=self._listener.detach()
        )

    def expect_end(self) -> None:
        """From now on the end of a rank is no loss."""
        self._expected = True

    def stop(self, grace_s: float) -> None:
        """Wait `grace_s` for them to end by themselves, then kill what is left."""
        self.expect_end()
        until = time.monotonic() + grace_s
        for rank, process in self._processes.items():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("rank %d did not end within %.1f s: killed", rank, grace_s)
                process.kill()
                process.wait()

    def _variables(self, rank: int) -> dict[str, str]:
        if self._listener is None:
            raise RuntimeError("start comes first")
        address, port = self._listener.getsockname()[:2]
        ranks = str(self._ranks)
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": str(True),  # nobody among the ranks need serve a store at that port
            **_loopback_only(),
        }

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]", on_loss: OnLoss) -> None:
        status = process.wait()
        if not self._expected:
            on_loss(f"rank {rank} (pid {process.pid}) {_ending(status)}")


def _loopback_only() -> dict[str, str]:
    """What the ranks of one machine tell each other is pickled and not encrypted: it leaves the machine on no port."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: os.environ.get(name, loopback) for name in names} if loopback is not None else {}


def _ending(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def watch_parent(on_orphaned: Callable[[], None]) -> None:
    """Call `on_orphaned`, in a thread, once whoever started this process is gone, however it ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_CHECK_S)
        on_orphaned()

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


def join_group(device_type: str) -> None:
    """Meet the other ranks; blocks until all are there. Raises RuntimeError (torch's DistError is one)."""
    # No rank has a captured step and another collective under way at once, and NCCL is faster if it need not mind it.
    # It reads this when ranks meet; transformers would say it only when the cache is made, with a warning.
    os.environ.setdefault("NCCL_GRAPH_MIXING_SUPPORT", "0")
    _distributed().init_process_group("nccl" if device_type == "cuda" else "gloo")


def leave_group() -> None:
    """After the last step; harmless for who never joined."""
    group = _distributed()
    if group.is_initialized():
        group.destroy_process_group()


def mesh_of(device_type: str, ranks: int) -> Any:
    """All ranks as one dimension `tp`, which transformers looks for."""
    return _distributed().init_device_mesh(device_type, (ranks,), mesh_dim_names=("tp",))


def _distributed() -> Any:
    """torch takes seconds to import, and marks these names as private to type checkers."""
    import torch.distributed

    return torch.distributed
