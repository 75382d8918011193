"""The engine for more than one machine: a Temporal workflow a run dispatches segments to workers.

What travels through Temporal are ids and labels. The run itself is in the database.
"""
