"""Starts a run in one process or several of this machine, and says how they ended where they could not."""
