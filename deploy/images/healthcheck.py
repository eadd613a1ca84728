"""The health check of our images: exit status 0 if the management endpoint of this container calls its service ready.

By the standard library alone, because the images have no curl, and because an engine runs it every few seconds.
"""

import http.client
import os
import sys

_TIMEOUT_S = 3.0


def main() -> int:
    """0 if /readyz answers 200, else 1; what it says goes to where `docker inspect` shows it."""
    port = int(os.environ.get("CHATMESH_MANAGEMENT_PORT", "9464"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from port {port}: {error}")
        return 1
    finally:
        connection.close()
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
