"""Measuring a bundle: against its checkpoint, by its reports, and part by part."""
