"""What the tests of data share: rows that say where they came from, and a refusal in one line."""

import numpy as np
import pytest

from keras_aeprune._validation import InputError


def rows(n=100, d=4):
    """Row i holds i * d ... i * d + d - 1, so a row says where it came from."""
    return np.arange(n * d, dtype="float64").reshape(n, d)


def refused(call, *words):
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text
