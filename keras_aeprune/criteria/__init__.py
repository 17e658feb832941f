"""Which weights matter: scores of the kernel's shape, higher means keep."""

from keras_aeprune.criteria.base import Criterion, get, register, serialize
from keras_aeprune.criteria.weights import Magnitude, Random

__all__ = ["Criterion", "Magnitude", "Random", "get", "register", "serialize"]
