"""Quality against quantity: scores, the order in which a budget takes rows, mixes by weight."""
