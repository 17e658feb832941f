"""Other ways to make a model smaller: shared weights, training for int8, distillation, a packed file.

- `Cluster`, `cluster`, `kmeans`     kernels that hold a few distinct values only, trained as such
- `quantization_aware`, `rounded_loss`   fine-tuning under the roundings of int8; zeros stay
- `distill`                          a small model taught by a large one
- `pack`, `unpack`                   one entropy-coded file, smaller than any zip; or an update to a known base
"""

from keras_aeprune.compression.clustering import Cluster, cluster
from keras_aeprune.compression.codebook import kmeans, sharing_rate
from keras_aeprune.compression.codec import pack, unpack
from keras_aeprune.compression.distillation import distill
from keras_aeprune.compression.fake_quant import quantized_layers
from keras_aeprune.compression.packed_rows import Packed, PackedRow
from keras_aeprune.compression.quantize import quantization_aware, rounded_loss
from keras_aeprune.compression.sharing_table import SharedRow, SharingTable

__all__ = [
    "Cluster",
    "Packed",
    "PackedRow",
    "SharedRow",
    "SharingTable",
    "cluster",
    "distill",
    "kmeans",
    "pack",
    "quantization_aware",
    "quantized_layers",
    "rounded_loss",
    "sharing_rate",
    "unpack",
]
