"""Sweeps: the jobs of ``dltrain -m``, what became of each, and what won."""
