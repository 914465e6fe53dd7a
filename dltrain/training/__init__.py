"""The training loop and what it is made of; gets objects and numbers, never a configuration."""
