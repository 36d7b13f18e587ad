"""The byte budget: what a bundle is planned to take, what it takes, and what happens when memory or heat presses."""
