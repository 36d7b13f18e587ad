"""Whether a bundle that is not built yet fits a device, what else would, and how fast it ought to be."""
