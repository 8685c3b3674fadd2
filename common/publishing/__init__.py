"""Publishing a run: its source, its pace, and the publisher."""
