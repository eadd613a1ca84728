"""Tracing and logging."""

from shared.telemetry.context import apart, extract, inject, lead_to
from shared.telemetry.logs import setup_logging
from shared.telemetry.tracing import fail, start_telemetry, working

__all__ = ["apart", "extract", "fail", "inject", "lead_to", "setup_logging", "start_telemetry", "working"]
