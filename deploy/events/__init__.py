"""What other teams are promised about our topics, written down from the registry: JSON Schemas, AsyncAPI documents, and
what a change would break (`python -m deploy.events --help`)."""
