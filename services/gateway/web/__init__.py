"""The HTTP server below the API: its socket, uvicorn and what it says where bytes are no HTTP, its limit of files."""
