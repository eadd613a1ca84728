"""The port behind which patterns and models find what the policy speaks of."""

from collections.abc import Sequence
from typing import Protocol

from services.moderation.windows import Finding, Window


class Classifier(Protocol):
    """Finds; what to do about it is the policy's business.

    What is found in a window is a function of the text up to the window's end, never of what else is in the batch
    or of what follows: two owners decide alike. A window may come from any response.
    """

    async def classify(self, batch: Sequence[Window]) -> Sequence[Sequence[Finding]]:
        """One sequence of findings per window, in the batch's order; each finding within its window's bounds."""
        ...
