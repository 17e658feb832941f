"""Arrays, files, image folders, time series and named sets, as checked float32 splits.

`load` reads what fits into memory, `windows` cuts time series into windows without a leak between the splits,
`stream` reads batches from disk. `Dataset` (`Stream` for the last) is what they return and `Scaling` says how
raw values became float32. `stitch` puts windows together again.
"""

from keras_aeprune.datasets.loading import Dataset, load
from keras_aeprune.datasets.scaling import Scaling
from keras_aeprune.datasets.streams import Stream, stream
from keras_aeprune.datasets.windows import stitch, windows

__all__ = ["Dataset", "Scaling", "Stream", "load", "stitch", "stream", "windows"]
