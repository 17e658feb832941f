"""A convolutional autoencoder for Fashion-MNIST cut to a budget, as int8 files, beside its peers.

28x28x1, filters 32 and 64, code 64; 15 epochs on 20,000 images.

Rows and columns are those that `shrinking.py` describes. torch-pruning's regularizer fails on transposed
convolutions; of its other routes Taylor's importance is run here, for one number of parameters.
"""

from benchmarks import _shrinking

TASK = _shrinking.Task(
    name="convolutional",
    shape=(28, 28, 1),
    build={"encoding_dim": 64, "filters": [32, 64]},
    epochs=15,
    samples=20000,
    targets={"params": (0.4, 0.34, 0.325), "macs": (0.25,)},
    peers=(0.34,),
    asked=((1.05, 8, 4),),
)


def run(quick):
    return _shrinking.run(TASK, "shrinking_convolutional", quick)


def show(result):
    return _shrinking.show(result, TASK)


def in_short(result):
    return _shrinking.in_short(result, TASK)
