"""Which autoencoder? Plain Keras models, and PCA as the baseline that each of them must beat.

- `dense` builds one, `default_sizes` proposes its sizes, `encoder_of` and `decoder_of` find its halves
- `PCA` is the best linear autoencoder, solved in closed form
- `load` reads a Keras file safely, `from_tf_keras` rebuilds a tf_keras (Keras 2) model
"""

from keras_aeprune.models.convert import from_tf_keras
from keras_aeprune.models.dense import default_sizes, dense
from keras_aeprune.models.files import load
from keras_aeprune.models.halves import decoder_of, encoder_of
from keras_aeprune.models.pca import PCA

__all__ = ["PCA", "decoder_of", "default_sizes", "dense", "encoder_of", "from_tf_keras", "load"]
