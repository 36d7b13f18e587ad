"""The flight recorder: topics of an inspection in one MCAP file."""
