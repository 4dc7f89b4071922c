"""The finaliser of SplitMix64: pseudo-random numbers out of consecutive ones, the same on every device.

Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

from torch import Tensor

# As signed numbers: PyTorch multiplies int64 modulo 2^64.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def mixed(numbers: Tensor) -> Tensor:
    """Map int64 of any shape one to one to numbers of which each bit depends on every bit of the argument."""
    result = numbers + _GOLDEN
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        result.bitwise_xor_(shifted(result, shift)).mul_(multiplier)
    return result.bitwise_xor_(shifted(result, 31))


def shifted(numbers: Tensor, bits: int) -> Tensor:
    """Shift int64 of any shape to the right and fill with zeros; PyTorch's own fills with the sign."""
    return (numbers >> bits).bitwise_and_(2 ** (64 - bits) - 1)
