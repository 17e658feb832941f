"""What weights cost when zeros are left out: the index that says where the others are counts too."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_aeprune._validation import InputError

__all__ = ["sparse_bytes"]

_VALUE, _GAP = 32, 8  # bits of a weight, and of the number of zeros before it


def sparse_bytes(weights: Any) -> int:
    """Bytes of an array that is stored without its zeros, values as 32 bits, in the cheapest of three ways.

    With n weights of which k are not zero,

        dense     32 n bits
        bitmask   n + 32 k bits
        gaps      (32 + 8) (k + f) bits

    where a gap is the number of zeros before a value, at most 255; f filler zeros stand where it is more, as in
    Deep Compression (https://arxiv.org/abs/1510.00149). Zeros behind the last value need nothing.

    Args:
        weights: an array of numbers, or of True where a weight is not zero.

    Returns:
        Bytes, rounded up.

    Raises:
        InputError: for an array of something else.

    Example:
        >>> sparse_bytes(np.zeros(64)), sparse_bytes(np.eye(8)), sparse_bytes(np.ones(64))
        (0, 40, 256)
    """
    array = np.asarray(weights)
    if array.dtype.kind not in "fiub":
        raise InputError(f"weights: got an array of {array.dtype}, allowed: numbers")
    places = np.flatnonzero(array)
    gaps = np.diff(places, prepend=-1) - 1
    fillers = int(np.sum(gaps >> _GAP))
    bits = min(
        _VALUE * array.size,
        array.size + _VALUE * len(places),
        (_VALUE + _GAP) * (len(places) + fillers),
    )
    return -(-bits // 8)
