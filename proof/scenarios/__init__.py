"""The scenarios: what is done to the service, each by a function of its own."""
