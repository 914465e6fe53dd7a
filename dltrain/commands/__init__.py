"""One short file a verb."""
