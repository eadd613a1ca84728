"""A valid request on its way into the mesh, until its HTTP status is known."""

from services.gateway.ingress.ingress import Ingress
from services.gateway.ingress.introduction import Introduction
from services.gateway.ingress.past import Past
from services.gateway.ingress.prompt import Fitted, TokenCounter, fit
from services.gateway.ingress.repeats import Repeats
from services.gateway.ingress.tiers import served_tier

__all__ = ["Fitted", "Ingress", "Introduction", "Past", "Repeats", "TokenCounter", "fit", "served_tier"]
