"""Images: decoded from files, changed and normalised as batches."""
