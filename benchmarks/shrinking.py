"""A dense autoencoder for Fashion-MNIST cut to a budget, as int8 files, beside its peers.

784-512-256-64-256-512-784, 30 epochs on all 60,000 images.

The given model is trained with a cosine rate. It is then made smaller by `shrink_until`; by torch-pruning, the
field's library for cutting units, to no more parameters than that, in five cuts with training between them
(the best of its routes by the error on the training images: group norms with regularization, Taylor, magnitude);
and by one cut of the same fraction of every layer by the size of their weights (the common practice). Beside them
stands the architecture that `shrink_until` chose, trained from scratch, and tfmot's best: no units cut, but a
fraction of 0.8 of the weights zero. All are int8 files, and the last training has the epochs and the rate of the
first one; the one from scratch has the epochs of both together. Files are timed in turns with the float32 file of
the given model, one thread; "128-bit" is how many times faster they are with SIMD of that width only, as phones
have it; "zipped" is the file in bytes after gzip. Errors are means over the test images and pixels, of the .tflite
file itself.
"""

from benchmarks import _shrinking

TASK = _shrinking.Task(
    name="dense",
    shape=(784,),
    build={"encoding_dim": 64, "hidden_units": [512, 256]},
    epochs=30,
    samples=60000,
    targets={"params": (0.44, 0.28)},
    peers=(0.44, 0.28),
    asked=((1.05, 8, 12), (1.15, 12, 18)),
)


def run(quick):
    return _shrinking.run(TASK, "shrinking", quick)


def show(result):
    return _shrinking.show(result, TASK)


def in_short(result):
    return _shrinking.in_short(result, TASK)
