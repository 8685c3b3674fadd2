"""API keys: who may call the gateway, and for what."""
