"""Representative inputs: real samples, and what can stand in for them."""

from keras_aeprune.calibration.samples import Calibration, get

__all__ = ["Calibration", "get"]
