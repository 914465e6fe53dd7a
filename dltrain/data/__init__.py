"""Data sets: each option of the ``dataset`` group is one function here that returns a :class:`base.Data`."""
