"""Starts a run in this process or in several of this machine, and reports how they ended."""
