"""What responses used, counted exactly once each from the public log, whoever dies."""

from services.history.usage.meter import UsageMeter
from services.history.usage.totals import Totals

__all__ = ["Totals", "UsageMeter"]
