"""The Python client of Tidings: subscribe to events, and publish them."""
