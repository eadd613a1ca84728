"""What history shows of itself, at scrape time."""

from services.history.recorder import Recorder
from services.history.usage import UsageMeter
from shared.telemetry.metrics import RECORDED_RESPONSES, USAGE_RESPONSES, USAGE_TOKENS, Metrics, Sample


def watch(metrics: Metrics, recorder: Recorder, usage: UsageMeter) -> None:
    """Show how many responses were stored here, and what responses used, of the partitions that this replica counts."""
    metrics.read(RECORDED_RESPONSES, lambda: [((), recorder.recorded)])
    metrics.read(USAGE_TOKENS, lambda: _tokens(usage))
    metrics.read(USAGE_RESPONSES, lambda: _responses(usage))


def _tokens(meter: UsageMeter) -> list[Sample]:
    return [
        ((kind, str(partition)), tokens)
        for partition, totals in meter.totals.items()
        for kind, tokens in (("input", totals.input_tokens), ("output", totals.output_tokens))
    ]


def _responses(meter: UsageMeter) -> list[Sample]:
    return [
        ((outcome, str(partition)), count)
        for partition, totals in meter.totals.items()
        for outcome, count in totals.responses.items()
    ]
