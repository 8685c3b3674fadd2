"""`smsim stats`: CPU and memory of services before, during and after a run, over time and against its volume."""

# Stands for the volume in a command.
VOLUME = "{n}"
