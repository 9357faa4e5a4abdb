"""What a training will take, before it is started: memory, operations, time and money."""
