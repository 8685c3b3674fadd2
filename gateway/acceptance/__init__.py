"""From a request to the queue: messages that the gateway accepts."""
