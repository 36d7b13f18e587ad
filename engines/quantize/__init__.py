"""Weight quantizers."""
