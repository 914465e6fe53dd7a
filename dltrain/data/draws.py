"""Random numbers that belong to a sample, computed when they are wanted: no table of them grows with a data set."""

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose constants are unsigned; torch multiplies modulo 2 ** 64.
_STEP, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def hashed_draws(key: int, width: int, indices: Tensor) -> Tensor:
    """Numbers (batch, width) in [0, 1) float32, on the device of ``indices`` (batch,) int64; ``key`` is the epoch's."""
    columns = torch.arange(width, device=indices.device)
    bits = _mixed(_mixed(indices + _mixed(torch.full_like(indices[:1], key))).unsqueeze(1) + columns)
    return _shifted(bits, 40).float() / 2**24


def _mixed(bits: Tensor) -> Tensor:
    bits = bits * _STEP + _STEP
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """``bits`` shifted right as unsigned numbers are."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
