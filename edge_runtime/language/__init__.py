"""The language model: tokens, the answer's grammar, the decoder and its key/value cache."""
