"""The WebSocket edge: handshake, connection, commands."""
