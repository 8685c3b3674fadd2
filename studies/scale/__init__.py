"""`smsim scale`: throughput against the number of senders, embedded or on RabbitMQ and Redis."""
