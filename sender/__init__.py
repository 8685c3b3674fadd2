"""The sender: consume, claim, send, settle, ack."""
