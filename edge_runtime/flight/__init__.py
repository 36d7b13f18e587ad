"""A flight on record: its log, recordings of its topics, and the page made of either."""
