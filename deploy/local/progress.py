"""What a local run waits for: one row per part. Pure: facts in, rows out."""

from dataclasses import dataclass
from enum import StrEnum

NO_SIGN_AFTER_S = 20.0


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the mesh: its name, how far it is, and since how many seconds it is being waited for."""

    name: str
    state: State
    detail: str = ""
    waited_s: float = 0.0

    @property
    def text(self) -> str:
        """`inference    loading model 40 %`."""
        return f"{self.name:<11} {self.detail or self.state.value}"


@dataclass(frozen=True, slots=True)
class Sign:
    """What a service's last heartbeat says; `detail` may be empty."""

    state: str
    detail: str


def service_row(name: str, sign: Sign | None, waited_s: float, log: str) -> Row:
    """The row of a service from its last sign of life. After a while without one, it names the log to look into."""
    if sign is None:
        detail = "starting" if waited_s < NO_SIGN_AFTER_S else f"no sign of life yet, see {log}"
        return Row(name, State.WAITING, detail, waited_s)
    if sign.state == "ready":
        return Row(name, State.READY, sign.detail or "ready", waited_s)
    return Row(name, State.STARTING, sign.detail or sign.state, waited_s)


def gateway_row(row: Row, answers: bool) -> Row:
    """The gateway counts as ready when it also says so over HTTP, as clients see it."""
    if row.state is State.READY and not answers:
        return Row(row.name, State.STARTING, "waiting for /readyz", row.waited_s)
    return row
