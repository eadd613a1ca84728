"""The surface that clients see: one module per resource."""
