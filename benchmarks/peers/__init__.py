"""What a user could run a LLaMA decoder with instead, each opened, fed and timed in the same way."""
