"""The broker: carries batches from those who publish to the senders, and loses none."""
