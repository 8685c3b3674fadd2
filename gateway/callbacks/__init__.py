"""Status callbacks: signed POSTs to a client's URL when its message has ended."""
