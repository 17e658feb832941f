"""Which autoencoder? Plain Keras models, PCA as the baseline of each, and what an encoder is good for afterwards.

Build one

- `autoencoder` fits any kind to the data and compiles it; `output_for` says which output and loss suit the data
- `dense`, `convolutional`, `recurrent`, `variational`, `denoising`, `sparse`, `stacked` take a shape;
  `Autoencoder` puts an encoder and a decoder of your own together; `default_sizes` proposes sizes
- `pretrain` trains a deep one layer by layer, `corrupt` makes noisy test data

Look at one

- `compare` puts models beside PCA and the mean, `PCA` is the best linear autoencoder in closed form
- `embed` gives codes, `embedding_quality` and `plot_embedding` show them beside PCA's
- `sample` draws new data, `posterior` and `log_likelihood` judge a variational model, `binarise` its data

Use it

- `with_head` and `fine_tune` make a classifier of an encoder, `replace_front` puts one in the place of a
  network's first layers, `build_in` builds a bottleneck into a network
- `AnomalyDetector` flags what is reconstructed badly, `on_raw_values` puts the scaling into the model
- `for_inference` drops what only training needs, `unrolled` prepares recurrent layers for export

Find and load

- `encoder_of`, `decoder_of` find the halves, `load` reads a Keras file safely, `from_tf_keras` rebuilds a
  tf_keras (Keras 2) model
"""

from keras_aeprune.models.anomaly import AnomalyDetector
from keras_aeprune.models.built_in import build_in
from keras_aeprune.models.compare import compare
from keras_aeprune.models.composed import Autoencoder
from keras_aeprune.models.convert import from_tf_keras
from keras_aeprune.models.convolutional import convolutional
from keras_aeprune.models.denoising import Corruption, corrupt, denoising
from keras_aeprune.models.dense import default_sizes, dense
from keras_aeprune.models.embed import embed, embedding_quality
from keras_aeprune.models.embedding_plot import plot_embedding
from keras_aeprune.models.files import load
from keras_aeprune.models.front import autoencoder
from keras_aeprune.models.halves import decoder_of, encoder_of
from keras_aeprune.models.head import fine_tune, with_head
from keras_aeprune.models.inference import for_inference
from keras_aeprune.models.likelihood import binarise, log_likelihood
from keras_aeprune.models.output import output_for
from keras_aeprune.models.pca import PCA
from keras_aeprune.models.raw import on_raw_values
from keras_aeprune.models.recurrent import recurrent, unrolled
from keras_aeprune.models.replace import replace_front
from keras_aeprune.models.sampling import Sampling
from keras_aeprune.models.sparse import sparse
from keras_aeprune.models.stacked import DenseTranspose, pretrain, stacked
from keras_aeprune.models.variational import posterior, sample, variational

__all__ = [
    "AnomalyDetector",
    "Autoencoder",
    "Corruption",
    "DenseTranspose",
    "PCA",
    "Sampling",
    "autoencoder",
    "binarise",
    "build_in",
    "compare",
    "convolutional",
    "corrupt",
    "decoder_of",
    "default_sizes",
    "dense",
    "denoising",
    "embed",
    "embedding_quality",
    "encoder_of",
    "fine_tune",
    "for_inference",
    "from_tf_keras",
    "load",
    "log_likelihood",
    "on_raw_values",
    "output_for",
    "plot_embedding",
    "posterior",
    "pretrain",
    "recurrent",
    "replace_front",
    "sample",
    "sparse",
    "stacked",
    "unrolled",
    "variational",
    "with_head",
]
