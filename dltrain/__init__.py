"""Train neural networks from the command line: Hydra groups in, a trained network with its curves out."""

__version__ = "0.1.0"
