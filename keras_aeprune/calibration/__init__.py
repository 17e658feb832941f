"""Representative inputs: real samples, and what can stand in for them.

- `get` draws samples from whatever the caller has; `Calibration` is what comes out
- `source` finds by name what makes samples: "real", "vae", "decoder", "cut", "gaussian_noise", "uniform_noise",
  "shuffled_pixels"; `names` lists them, `register` adds one's own `Source`
- `mixed` puts generated samples beside real ones in a stated proportion
- `train_generator` trains the model behind "vae" for use again and again, `generate` draws from it
"""

from keras_aeprune.calibration.generator import generate, train_generator
from keras_aeprune.calibration.mixing import mixed
from keras_aeprune.calibration.noise import GaussianNoise, ShuffledPixels, UniformNoise
from keras_aeprune.calibration.real import Real
from keras_aeprune.calibration.reconstructed import Cut, Decoder
from keras_aeprune.calibration.samples import Calibration, get
from keras_aeprune.calibration.sources import Source, names, register, serialize, source
from keras_aeprune.calibration.vae import Vae

__all__ = [
    "Calibration",
    "Cut",
    "Decoder",
    "GaussianNoise",
    "Real",
    "ShuffledPixels",
    "Source",
    "UniformNoise",
    "Vae",
    "generate",
    "get",
    "mixed",
    "names",
    "register",
    "serialize",
    "source",
    "train_generator",
]
