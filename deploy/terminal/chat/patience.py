"""How long what leads nowhere is tried again."""

import asyncio

_PAUSES_S = (0.1, 0.3, 1.0, 2.0)


class Patience:
    """One deadline for all failures in a row, from the first of them on, and the pauses between rounds of tries.

    A round is a try at each of `gateways`: every one of them has its turn, however short `limit_s` is.
    """

    def __init__(self, gateways: int, limit_s: float) -> None:
        self.limit_s = limit_s
        self._gateways = gateways
        self._tries = 0
        self._give_up_s: float | None = None

    def renew(self) -> None:
        """Something came of the last try."""
        self._tries, self._give_up_s = 0, None

    def count(self) -> None:
        """A gateway is tried."""
        self._tries += 1

    async def endures(self) -> bool:
        """Whether to try again after a failure; it is time to by when this returns."""
        now_s = asyncio.get_running_loop().time()
        if self._give_up_s is None:
            self._give_up_s = now_s + self.limit_s
        rounds, within = divmod(self._tries, self._gateways)
        if within or not rounds:
            return True
        if now_s >= self._give_up_s:
            return False
        await asyncio.sleep(_PAUSES_S[min(rounds, len(_PAUSES_S)) - 1])
        return True
