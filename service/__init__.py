"""Tidings: durable notification push over WebSocket, one log and one number."""
