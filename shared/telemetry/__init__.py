"""Tracing and logging."""

from shared.telemetry.context import extract, inject
from shared.telemetry.logs import setup_logging
from shared.telemetry.tracing import fail, start_telemetry, working

__all__ = ["extract", "fail", "inject", "setup_logging", "start_telemetry", "working"]
