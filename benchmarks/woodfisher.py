"""One-shot pruning without training after it: a classifier of digits at growing sparsity, by criterion.

An MLP 784-40-20-10 is trained on MNIST, then all kernels are cut under one global threshold, by magnitude, by the
diagonal empirical Fisher, and by WoodFisher: with its scores alone, with the update of the weights that stay, and
with the update in 5 rounds of growing sparsity. Fisher and WoodFisher see the same training samples. The published
accuracies at 0.95 are 0.1988 for the diagonal and 0.8418 for WoodFisher (Singh and Alistarh 2020, their example).
"""

from benchmarks._parts import NO_DATA, images, real

SPARSITIES = (0.8, 0.9, 0.95)
ROUNDS = 5
FULL, QUICK = (10, 60000, 4000), (1, 2000, 64)  # epochs, training samples, samples for the Fisher information
METHODS = (
    "magnitude",
    "fisher, diagonal",
    "woodfisher, scores alone",
    "woodfisher",
    f"woodfisher, {ROUNDS} rounds",
)


def _trained(x, y, epochs):
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(40, "relu"), keras.layers.Dense(20, "relu"), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((784,)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def _prune(model, method, sparsity, data):
    from keras_aeprune.sparsity import one_shot

    name, _, how = method.partition(", ")
    rounds = ROUNDS if "rounds" in how else 1
    options = {"rounds": rounds, "compensate": how != "scores alone", "progress": False}
    one_shot(model, sparsity, data, criterion=name, **options)


def run(quick):
    import time

    from keras_aeprune.calibration import Calibration

    if real("mnist") is None:
        return NO_DATA
    epochs, samples, seen = QUICK if quick else FULL
    (x, y), (x_test, y_test) = images("mnist")
    model = _trained(x[:samples], y[:samples], epochs)
    dense, data = model.get_weights(), Calibration(x[:seen], y[:seen])
    accuracy, seconds = {}, {}
    for method in METHODS:
        for sparsity in SPARSITIES:
            model.set_weights(dense)
            began = time.perf_counter()
            _prune(model, method, sparsity, data)
            seconds[method] = time.perf_counter() - began
            accuracy.setdefault(method, []).append(model.evaluate(x_test, y_test, verbose=0)[1])
    model.set_weights(dense)
    dense = model.evaluate(x_test, y_test, verbose=0)[1]
    return {"samples": seen, "dense": dense, "accuracy": accuracy, "seconds": seconds}


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    heads = "".join(f"{sparsity:>9}" for sparsity in SPARSITIES)
    lines = [f"test accuracy, {result['samples']} samples seen; dense {result['dense']:.4f}"]
    lines.append(f"{'fraction of zeros':<27}{heads}{'seconds':>10}")
    for method, values in result["accuracy"].items():
        cells = "".join(f"{value:>9.4f}" for value in values)
        lines.append(f"{method:<27}{cells}{result['seconds'][method]:>10.2f}")
    return "\n".join(lines)
