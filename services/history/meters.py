"""What history shows of itself, at scrape time."""

from services.history.recorder import Recorder
from services.history.usage import UsageMeter
from shared.telemetry.metrics import RECORDED_RESPONSES, USAGE_RESPONSES, USAGE_TOKENS, Metrics, Sample


def expose_recorder(metrics: Metrics, recorder: Recorder) -> None:
    """How many responses it stored."""
    metrics.read(RECORDED_RESPONSES, lambda: [((), recorder.recorded)])


def expose_usage(metrics: Metrics, meter: UsageMeter) -> None:
    """What responses used, of the partitions that this replica counts."""
    metrics.read(USAGE_TOKENS, lambda: _tokens(meter))
    metrics.read(USAGE_RESPONSES, lambda: _responses(meter))


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
