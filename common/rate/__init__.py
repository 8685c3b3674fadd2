"""The rate limit: how many sends may begin, over all senders together."""
