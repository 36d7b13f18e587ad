"""A precision plan chosen from measurements: the least harm that fits a budget."""
