"""Arrays, files, image folders and named sets, as checked float32 splits.

`load` does everything; `Dataset` is what it returns and `Scaling` says how raw values became float32.
"""

from keras_aeprune.datasets.loading import Dataset, load
from keras_aeprune.datasets.scaling import Scaling

__all__ = ["Dataset", "Scaling", "load"]
