"""What a training leaves from which it can go on: checkpoints, optimiser state, the choice of the best."""
