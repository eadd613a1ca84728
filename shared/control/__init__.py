"""The control plane: questions and requests that a group of replicas shares, each answered once it can be."""

from shared.control.handling import RecordHandler
from shared.control.intake import Intake, place
from shared.control.outbox import LogOutbox, Outbox, Outgoing
from shared.control.plane import HAND_OVER_S, ControlPlane
from shared.control.subscription import Subscription
from shared.control.watermark import Watermark

__all__ = [
    "HAND_OVER_S",
    "ControlPlane",
    "Intake",
    "LogOutbox",
    "Outbox",
    "Outgoing",
    "RecordHandler",
    "Subscription",
    "Watermark",
    "place",
]
