"""Tracing and logging."""

from shared.telemetry.context import extract, inject
from shared.telemetry.setup import setup_logging, start_telemetry

__all__ = ["extract", "inject", "setup_logging", "start_telemetry"]
