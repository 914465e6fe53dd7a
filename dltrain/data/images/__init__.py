"""Image files to pixels, pixels to batches."""
