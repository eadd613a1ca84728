"""What every service shares: records and topics, ids, pure folds, the log, request/reply, telemetry, settings."""
