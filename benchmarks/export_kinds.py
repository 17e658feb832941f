"""Every kind of model as a .tflite file: how far float32 and int8 are from Keras, and each trap avoided.

Small untrained or briefly trained models of twenty kinds, 64 random samples. Differences are those that decide
whether a file is kept: the largest one as a fraction of the largest output, and the root mean square as a
fraction of the output's spread. "rolled" recurrent models are exported with `unroll=False`: their int8 files
are refused, since the converter crashes on them. The last row must be refused by name.
"""

import tempfile
from pathlib import Path

LIMITS = {"float32": 1e-5, "int8": 0.5}  # of the largest output: asked, and what a file is held to


def _models():
    """{kind: (model, samples, options of export)}."""
    import keras
    import numpy as np
    from keras import layers as kl

    from keras_aeprune import models

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.random((64, *shape), "float32")

    def chain(shape, *layers):
        return keras.Sequential([keras.Input(shape), *layers])

    def functional(shape, call):
        entrance = keras.Input(shape)
        return keras.Model(entrance, call(entrance))

    class Scaled(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = kl.Dense(16, "relu"), kl.Dense(8)

        def call(self, x):
            return self.second(self.first(x)) * 0.5

    subclassed = Scaled()
    subclassed(draw(8)[:1])
    pruned = models.dense((32,), encoding_dim=8, hidden_units=(64, 32))
    for weight in pruned.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(weight * (np.abs(weight) >= np.quantile(np.abs(weight), 0.95)))
    pruned.get_layer("encoder").get_layer("hidden_2").bias.assign(np.full(32, -9.0))  # never fires
    pair = [keras.Input((8,), name="left"), keras.Input((4,), name="right")]
    two = keras.Model(pair, kl.Dense(3)(kl.Concatenate()([kl.Dense(8, "relu")(pair[0]), pair[1]])))
    nested = models.dense((32,), encoding_dim=8, hidden_units=(24,))
    convolutional = models.convolutional((16, 16, 1), encoding_dim=8, filters=(8, 16), batch_normalization=True)
    up = models.convolutional((16, 16, 1), encoding_dim=8, filters=(8, 16), upsampling="resized")
    cells = {"lstm": kl.LSTM, "gru": kl.GRU}
    found = {
        "dense": (models.dense((32,), encoding_dim=4), draw(32), {}),
        "conv, BatchNormalization": (convolutional, draw(16, 16, 1), {}),
        "conv-transpose": (models.convolutional((16, 16, 1), encoding_dim=8, filters=(8,)), draw(16, 16, 1), {}),
        "two upsampling stages": (up, draw(16, 16, 1), {}),
        "Conv1D": (models.convolutional((32, 2), encoding_dim=4, filters=(8, 8)), draw(32, 2), {}),
        "LayerNormalization": (chain((16,), kl.Dense(24), kl.LayerNormalization(), kl.Dense(8)), draw(16), {}),
    }
    for name, cell in cells.items():
        for rolled in (True, False):
            kind = f"{name.upper()}, {'rolled' if rolled else 'unrolled'}"
            model = chain((12, 3), cell(16), kl.Dense(4))
            found[kind] = (model, draw(12, 3), {"unroll": not rolled})
    vae = {"hidden_units": (32,), "encoding_dim": 4}
    both = chain((12, 3), kl.Bidirectional(kl.LSTM(8)), kl.Dense(4))
    found |= {
        "Bidirectional LSTM": (both, draw(12, 3), {}),
        "recurrent autoencoder": (models.recurrent((12, 3), encoding_dim=4, units=(8,)), draw(12, 3), {}),
        "VAE, dense": (models.variational((32,), **vae), draw(32), {}),
        "VAE, its encoder": (models.variational((32,), **vae).encoder, draw(32), {}),
        "VAE, its decoder": (models.variational((32,), **vae).decoder, rng.normal(size=(64, 4)), {}),
        "nested": (nested, draw(32), {}),
        "subclassed": (subclassed, draw(8), {}),
        "two inputs": (two, {"left": draw(8), "right": draw(4)}, {}),
        "gelu": (chain((16,), kl.Dense(24, "gelu"), kl.Dense(8)), draw(16), {}),
        "silu": (chain((16,), kl.Dense(24, "silu"), kl.Dense(8)), draw(16), {}),
        "0.95 zeros, a dead layer": (pruned, draw(32), {}),
    }
    return found


def _random_at_inference():
    import keras

    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x))

    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), Noise(name="sampling")])


def run(quick):
    from keras_aeprune import export
    from keras_aeprune._validation import InputError

    rows, found = {}, _models()
    kinds = ["dense", "gelu"] if quick else list(found)
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(kinds):
            model, x, options = found[kind]
            paths = {p: Path(folder) / f"{number}_{p}.tflite" for p in LIMITS}
            made = export.tflite_many(model, paths, data=x, on_failure="return", **options)
            rows[kind] = {
                name: {"max": file.max_difference, "rms": file.rms_difference, "bytes": file.bytes}
                if isinstance(file, export.ExportedFile)
                else {"refused": str(file)}
                for name, file in made.items()
            }
            rows[kind]["removed"] = getattr(made["float32"], "removed_units", 0)
        try:
            export.tflite(_random_at_inference(), Path(folder) / "random.tflite")
            said = "NOT refused"
        except InputError as error:
            said = str(error)
    return {"rows": rows, "random at inference": said}


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    head = f"{'':<26}{'float32: max':>13}{'rms':>9}{'bytes':>9}{'int8: max':>12}{'rms':>9}{'bytes':>9}"
    lines = [head]
    for kind, row in result["rows"].items():
        cells, notes = "", []
        for name, widths in {"float32": (13, 9, 9), "int8": (12, 9, 9)}.items():
            one = row[name]
            if "refused" in one:
                cells += " " * (widths[0] - 8) + " refused" + " " * (widths[1] + widths[2])
                notes.append(one["refused"].split(", allowed")[0][:150])
            else:
                cells += f"{one['max']:>{widths[0]}.1e}{one['rms']:>{widths[1]}.1e}{one['bytes']:>{widths[2]},}"
        lines.append(
            f"{kind:<26}{cells}".rstrip() + (f"   {row['removed']} dead units out" if row["removed"] else "")
        )
        lines += [f"    {note}" for note in notes]
    reached = [row["float32"].get("max", float("inf")) for row in result["rows"].values()]
    within = sum(value <= LIMITS["float32"] for value in reached)
    lines.append(f"float32 within {LIMITS['float32']:g} of the largest output: {within} of {len(reached)} kinds")
    lines.append(f"random numbers at inference: {result['random at inference'][:200]}")
    return "\n".join(lines)
