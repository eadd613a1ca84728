"""One line when something stops working, one when it works again, however often it was tried in between."""

import logging
import time
from collections.abc import Callable


class Outage:
    """Counts the failures of `what` and reports to `log` where they begin and end."""

    def __init__(self, log: logging.Logger, what: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        self._log = log
        self._what = what
        self._clock = clock
        self._began_s = 0.0

    def failed(self, error: Exception) -> None:
        """It did not work."""
        if self.failures == 0:
            self._began_s = self._clock()
            self._log.warning("%s fail, until further notice: %s", self._what, str(error) or type(error).__name__)
        self.failures += 1

    def over(self) -> None:
        """It worked."""
        if self.failures:
            lasted_s = self._clock() - self._began_s
            self._log.warning("%s work again, after %d failures in %.1f s", self._what, self.failures, lasted_s)
        self.failures = 0
