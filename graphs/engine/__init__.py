"""Engines: what sees to it that a run is executed by some process."""
