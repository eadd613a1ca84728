"""Which service tier serves a request: what its key may have, and what it asks for. Pure."""

from services.gateway.auth import PRIORITY_OF_TIER

_PRIORITY_OF_SERVED = {**PRIORITY_OF_TIER, "flex": -1}
_DOWN = {"default", "flex"}
"""What every key may have: a request may always ask for less than its key gives."""


def served_tier(key_tier: str, asked: str) -> tuple[str, int]:
    """The tier that serves, as the response echoes it, and the priority of its jobs: higher ones are dispatched first.

    A key has its own tier and those below: `priority`, `default`, `flex`. What asks for none in particular (`auto`), or
    for one that its key has not or that there is not here (`scale`, `fast`, ...), is served by the key's own, as
    OpenAI serves by another tier than the one asked for and says so in the response.
    """
    served = asked if asked in _DOWN else key_tier
    return served, _PRIORITY_OF_SERVED[served]
