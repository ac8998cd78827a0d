"""Who is calling: client tokens and API keys."""
