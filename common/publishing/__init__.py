"""Publishing a run: where its messages come from, how fast they go out, and what is safe."""
