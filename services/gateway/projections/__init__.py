"""Pure projections of the event log into the dialects that clients speak."""

from services.gateway.projections.client_event import ClientEvent
from services.gateway.projections.response_object import response_object
from services.gateway.projections.responses import ResponsesProjection
from services.gateway.projections.stored import stored_events

__all__ = ["ClientEvent", "ResponsesProjection", "response_object", "stored_events"]
