"""End to end: the real launchers as processes, against real servers."""
