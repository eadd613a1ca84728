"""Pure projections of the event log into the dialects that clients speak."""

from services.gateway.projections.client_event import ClientEvent
from services.gateway.projections.dialect import Dialect
from services.gateway.projections.response_object import response_object
from services.gateway.projections.responses import RESPONSES, ResponsesProjection
from services.gateway.projections.stored import stored_events

__all__ = ["RESPONSES", "ClientEvent", "Dialect", "ResponsesProjection", "response_object", "stored_events"]
