"""What the endpoints work with: the gateway's parts, as the wiring hands them over."""

from dataclasses import dataclass, field

from services.gateway.admission import Admission
from services.gateway.auth import Authenticator
from services.gateway.cancellation import Cancellation
from services.gateway.conversations import Conversations
from services.gateway.deletion import Deletion
from services.gateway.drain import Drain
from services.gateway.fanout import Fanout
from services.gateway.history import History
from services.gateway.ingress import Ingress
from services.gateway.ledger import Ledger
from services.gateway.lookup import Lookup
from services.gateway.meter import GatewayMeter
from services.gateway.moderations import Moderations
from services.gateway.settings import GatewaySettings
from shared.chat import ChatTokenizer
from shared.heartbeats import Cluster


@dataclass(frozen=True)
class Parts:
    """One gateway's parts."""

    settings: GatewaySettings
    authenticator: Authenticator
    admission: Admission
    drain: Drain
    ingress: Ingress
    ledger: Ledger
    lookup: Lookup
    cancellation: Cancellation
    deletion: Deletion
    history: History
    conversations: Conversations
    moderations: Moderations
    fanout: Fanout
    cluster: Cluster
    tokenizer: ChatTokenizer
    meter: GatewayMeter = field(default_factory=GatewayMeter)
