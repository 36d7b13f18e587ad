"""The offline half: turn a Hugging Face checkpoint into an engine bundle, every precision choice measured."""
