"""How instances reach each other at once: the port, and its adapters."""
