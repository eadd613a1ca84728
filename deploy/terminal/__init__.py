"""Tools for people at a terminal: `chat` talks to a mesh, `top` watches it, `dlq` looks after its dead letters.

They are clients: `chat` of the gateways' API, the others of the broker, as the registry lets operators be
(`shared.topics.Outsider`).
"""
