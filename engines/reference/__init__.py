"""The reference inspector: scene renderer, training, evaluation and weights."""
