"""Live events: who listens, and what is sent to them."""
