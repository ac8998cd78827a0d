"""The edge for clients: their ways in, WebSockets and streams, commands."""
