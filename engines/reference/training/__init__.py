"""Training the reference models on rendered scenes."""
