"""Inspection reports: their schema, findings tracked from frame to frame, and findings drawn."""
