"""`/v1/models`: what living workers serve."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from services.gateway.api.envelope import json_response
from services.gateway.api.parts import Parts
from services.gateway.catalogue import ServedModel, served_models
from services.gateway.errors import ApiError

# Models have no birthday here; a constant keeps replies equal over replicas and restarts.
_CREATED = 0
_OWNER = "chatmesh"


async def list_models(request: Request) -> Response:
    """All models that a worker has ready."""
    parts: Parts = request.app.state.parts
    parts.authenticator.caller(request)
    return json_response({"object": "list", "data": [_model(found) for found in served_models(parts.cluster)]})


async def retrieve_model(request: Request) -> Response:
    """One model; 404 if no living worker serves it. Ids may hold slashes."""
    parts: Parts = request.app.state.parts
    parts.authenticator.caller(request)
    wanted = request.path_params["model"]
    for found in served_models(parts.cluster):
        if found.id == wanted:
            return json_response(_model(found))
    message = f"The model '{wanted[:200]}' does not exist."
    raise ApiError(404, message, code="model_not_found", param="model")


def _model(found: ServedModel) -> dict[str, Any]:
    return {
        "id": found.id,
        "object": "model",
        "created": _CREATED,
        "owned_by": _OWNER,
        "context_window": found.context_window,
    }
