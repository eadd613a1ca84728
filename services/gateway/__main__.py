"""`python -m services.gateway`: speaks OpenAI's Responses API and Chat Completions, and follows the log."""

import sys

from services.gateway.app import serve
from services.gateway.settings import GatewaySettings
from shared.runtime import main_of

if __name__ == "__main__":
    sys.exit(main_of("gateway", __doc__, GatewaySettings, serve))
