"""Layers out of a small residual network for images: how many can go, by which choice, and at what accuracy.

Fashion-MNIST, 5,000 training images. A stem and a second convolution halve the image; behind each stand two
blocks x + W2 relu(W1 x), W1 of 3 x 3 and W2 of 1 x 1 pixels, each with a batch normalization. That makes six
activations. An activation that goes makes its two convolutions one (behind the stem and before a padded window
it cannot: there only the ReLU goes).

- least entropy: the activation of the lowest ON/OFF entropy goes, then two epochs of training; then the next
  one, then two at once (EASIER)
- least error: the same, by the rise of the loss without it
- random: the same, by lot
- Layer Folding: training with a penalty decides how many go
- entropy pruning: weights of the blocks' 3 x 3 kernels are pruned in rounds, most where states tell least (EGP);
  what is constant or always ON then goes, with no loss on the training images
- magnitude pruning: the same number of zeros under one threshold; what can go goes here too
- from scratch: the architecture that "least entropy" left, trained as long as both its trainings
- trained on: the given network with the training of all three rounds, and nothing removed

Batch normalizations stay until all training is done and are merged then; their statistics are measured again
after every training. Medians over the seeds with the lowest and the highest; bytes and times are those of the
first seed's .tflite files, int8 unless it is said.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks._parts import NO_DATA, decaying_adam, images, kept, parts, real

CHANNELS, EXPANSION, BLOCKS = (6, 12), 2, 2
ACTIVATIONS = len(CHANNELS) * (1 + BLOCKS)
SEEDS = (0, 1, 2)
BATCH, RATE = 64, 3e-3
# takes: activations that go in each round; zeros: fraction of the blocks' 3 x 3 kernels behind each round
FULL = {"samples": 5000, "test": 5000, "dense": 8, "epochs": 2, "seeds": 3}
FULL |= {"takes": [1, 1, 2], "scratch": [2, 4], "zeros": [0.6, 0.9]}
QUICK = {"samples": 256, "test": 256, "dense": 1, "epochs": 1, "seeds": 1}
QUICK |= {"takes": [1], "scratch": [1], "zeros": [0.6]}
PENALTY = 0.25  # of Layer Folding, as in its paper
FOLD_RATE = 2e-2  # Adam's step is what alpha can move by: less does not get from 0 to 1 in these epochs
SEEN = 1000  # images that choose what goes
BY = {"least entropy": "easier", "least error": "error", "random": None}
ORDER = (*BY, "Layer Folding", "entropy pruning", "magnitude pruning", "from scratch")


def network():
    import keras

    kl = keras.layers

    def convolved(x, filters, kernel, name, strides=1):
        x = kl.Conv2D(filters, kernel, strides, "same", use_bias=False, name=name)(x)
        return kl.BatchNormalization(name=f"{name}_norm")(x)

    x = entrance = keras.Input((28, 28, 1))
    for stage, width in enumerate(CHANNELS, 1):
        x = kl.ReLU(name=f"down{stage}_relu")(convolved(x, width, 3, f"down{stage}", 2))
        for block in range(1, BLOCKS + 1):
            name = f"wide{stage}{block}"
            branch = kl.ReLU(name=f"{name}_relu")(convolved(x, EXPANSION * width, 3, name))
            x = kl.Add(name=f"add{stage}{block}")([x, convolved(branch, width, 1, f"narrow{stage}{block}")])
    return keras.Model(entrance, kl.Dense(10, name="logits")(kl.GlobalAveragePooling2D()(x)))


class Job:
    """The data and trainings of one seed; `folder` keeps its files."""

    def __init__(self, settings, seed, folder):
        (x, y), (test, labels) = images("fashion_mnist", (28, 28, 1))
        count = settings["samples"]
        self.settings, self.seed, self.folder = settings, seed, folder
        self.x, self.y = x[seed * count : (seed + 1) * count], y[seed * count : (seed + 1) * count]
        self.test = test[: settings["test"]], labels[: settings["test"]]
        self.seen = self.x[:SEEN], self.y[:SEEN]

    @property
    def dense_file(self):
        return self.folder / f"dense-{self.seed}.keras"

    def dense(self):
        import keras

        return keras.models.load_model(self.dense_file)

    def compiled(self, model, epochs, rate=RATE):
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(decaying_adam(rate, epochs, len(self.x), BATCH), loss)
        return model

    def train(self, model, epochs, rate=RATE):
        import keras

        keras.utils.set_random_seed(self.seed)
        self.compiled(model, epochs, rate)
        self.fit(model, epochs)

    def fit(self, model, epochs):
        """Two epochs are too short for the running means of a normalization: they are measured again."""
        from keras_aeprune.shrinking.walking import reestimate_normalization

        model.fit(self.x, self.y, batch_size=BATCH, epochs=epochs, verbose=0)
        reestimate_normalization(model, self.x)

    def row(self, model, name, paths=(), **more):
        """The figures of a trained model, merged; the first seed's is exported."""
        from keras_aeprune import export
        from keras_aeprune.shrinking.merging import merge

        found = merge(model)
        right = found.predict(self.test[0], batch_size=1000, verbose=0).argmax(1) == self.test[1]
        row = {"removed": ACTIVATIONS - left(found), "accuracy": float(right.mean()), "paths": list(paths), **more}
        row["parameters"], row["convolutions"] = found.count_params(), convolutions(found)
        if self.seed == SEEDS[0]:
            path = self.folder / f"{name}-{self.seed}.tflite"
            file = export.tflite(found, path, quantize="int8", data=self.x[:200])
            row.update(bytes=file.bytes, file=path.name)
        return row


def left(model):
    """Activations that are in a model."""
    from keras_aeprune.shrinking.simplifying import activations

    return sum(name == "relu" for name in activations(model).values())


def convolutions(model):
    import keras

    return sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)


def trained(job):
    """The dense network, also as a float32 file."""
    import keras

    from keras_aeprune import export
    from keras_aeprune._files import writing
    from keras_aeprune.shrinking.merging import merge

    keras.utils.set_random_seed(job.seed)
    model = network()
    job.train(model, job.settings["dense"])
    with writing(job.dense_file) as temporary:
        model.save(temporary)
    found = job.row(model, "dense")
    if job.seed == SEEDS[0]:
        path = job.folder / "dense-float32.tflite"
        found["float32"] = {"bytes": export.tflite(merge(model), path).bytes, "file": path.name}
    return [found]


def chosen(model, job, by, takes, order):
    """The activations that go next."""
    from keras_aeprune.shrinking.depth import removable
    from keras_aeprune.shrinking.depth_ranking import rank_layers

    if by is None:
        able = [cut for cut in removable(model) if cut.kind == "activation" and not cut.reason]
        return [able[number] for number in order.permutation(len(able))[:takes]]
    rows = rank_layers(model, job.seen, by=by)
    return [row for row in rows if row.kind == "activation" and row.score is not None][:takes]


def one_by_one(job, name):
    """An activation goes, training, and again."""
    import numpy as np

    from keras_aeprune._files import writing
    from keras_aeprune.shrinking.depth import without

    order, model, rows, gone = np.random.default_rng(job.seed), job.dense(), [], []
    for takes in job.settings["takes"]:
        cuts = chosen(model, job, BY[name], takes, order)
        gone += [cut.path for cut in cuts]
        number = len(gone)
        model = without(model, cuts, merge=False)
        job.train(model, job.settings["epochs"])
        rows.append(job.row(model, f"{name.replace(' ', '-')}-{number}", gone))
        if name == "least entropy" and number in job.settings["scratch"]:
            with writing(job.folder / f"cut-{number}-{job.seed}.keras") as temporary:
                model.save(temporary)
    return rows


def from_scratch(job, _):
    import keras

    rows = []
    ends = [sum(job.settings["takes"][: place + 1]) for place in range(len(job.settings["takes"]))]
    for number in job.settings["scratch"]:
        rounds = ends.index(number) + 1
        keras.utils.set_random_seed(100 + job.seed)
        cut = keras.models.load_model(job.folder / f"cut-{number}-{job.seed}.keras", compile=False)
        model = keras.models.clone_model(cut)
        job.train(model, job.settings["dense"] + rounds * job.settings["epochs"])
        rows.append(job.row(model, f"scratch-{number}"))
    return rows


def trained_on(job, _):
    model = job.dense()
    job.train(model, len(job.settings["takes"]) * job.settings["epochs"])
    return [job.row(model, "on")]


def folded(job, _):
    from keras_aeprune.shrinking.folding import alphas, fold, prepare

    epochs = len(job.settings["takes"]) * job.settings["epochs"]
    model = prepare(job.dense(), rate=PENALTY)
    job.train(model, -(-epochs // 2), FOLD_RATE)
    found = alphas(model)
    model = fold(model)
    job.train(model, -(-epochs // 2))
    return [job.row(model, "folding", alphas=found)]


def pruned(job, name):
    """Zeros in rounds; behind each, what does nothing or only passes on goes from a copy."""
    from keras_aeprune.sparsity.iterative import iterative

    model, rows = job.dense(), []

    def train(model, number):
        job.fit(model, job.settings["epochs"])
        zeros = zeros_of(model)
        small = without_idle(model, job.seen[0])
        rows.append(job.row(small, f"{name.replace(' ', '-')}-{number}", zeros=zeros))

    iterative(
        job.compiled(model, job.settings["epochs"]),
        (job.x, job.y),
        sparsities=job.settings["zeros"],
        validation=job.seen,
        allocation="entropy" if name == "entropy pruning" else "global",
        pruning={"include": ["wide*"], **({"data": job.seen} if name == "entropy pruning" else {})},
        train=train,
        seed=job.seed,
        progress=False,
    )
    return rows


def zeros_of(model):
    """Fraction of the pruned kernels' weights that are zero."""
    convolved = [layer for layer in model.layers if layer.name.startswith("wide") and hasattr(layer, "kernel")]
    kernels = [layer.kernel.numpy() for layer in convolved]
    return float(sum((kernel == 0).sum() for kernel in kernels) / sum(kernel.size for kernel in kernels))


def without_idle(model, x):
    """The model without units that are constant on x, and without activations that are always ON there."""
    from keras_aeprune.shrinking.dead import without_dead
    from keras_aeprune.shrinking.depth import without
    from keras_aeprune.shrinking.depth_ranking import rank_layers
    from keras_aeprune.shrinking.merging import merge

    small, _ = without_dead(merge(model), x)
    idle = [row for row in rank_layers(small, x, by="entropy") if row.score == 0]
    return without(small, idle) if idle else small


METHODS = {
    **dict.fromkeys(BY, one_by_one),
    "from scratch": from_scratch,
    "trained on": trained_on,
    "Layer Folding": folded,
    "entropy pruning": pruned,
    "magnitude pruning": pruned,
}


def run(quick):
    if real("fashion_mnist") is None:
        return NO_DATA
    settings, rows = QUICK if quick else FULL, []
    with parts("layer_removal", quick) as folder, tempfile.TemporaryDirectory() as thrown:
        files = Path(thrown) if quick else folder
        for seed in SEEDS[: settings["seeds"]]:
            job = Job(settings, seed, files)
            shape = [settings, CHANNELS, EXPANSION, BLOCKS, RATE, BATCH, PENALTY, FOLD_RATE, SEEN]
            rows += _tagged("given", seed, kept(folder, f"given-{seed}", shape, lambda j=job: trained(j)))
            for name, make in METHODS.items():
                key = f"{name.replace(' ', '-')}-{seed}"
                found = kept(folder, key, shape, lambda j=job, n=name, m=make: m(j, n))
                rows += _tagged(name, seed, found)
        return {"settings": settings, "activations": ACTIVATIONS, "rows": _timed(rows, files)}


def _tagged(name, seed, rows):
    return [{"method": name, "seed": seed, "step": step, **row} for step, row in enumerate(rows)]


def _timed(rows, files):
    """All rows; those with a file, and the float32 file, with its microseconds, measured in turns."""
    from keras_aeprune import export

    holders = [part for row in rows for part in (row, row.get("float32", {})) if "file" in part]
    times = export.benchmark(*[files / part["file"] for part in holders], runs=400)
    for part, time in zip(holders, times, strict=True):
        part["us"] = time.median_us
    return rows


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    rows, every = result["rows"], result["activations"]
    dense = {row["seed"]: row["accuracy"] for row in rows if row["method"] == "given"}
    head = f"{f'of {every} activations':<36}{'gone':>7}{'accuracy':>10}{'low':>8}{'high':>8}{'to given':>10}"
    lines = [head + f"{'convolutions':>14}{'bytes':>9}{'us':>7}"]
    first = next(row for row in rows if "float32" in row)
    lines.append(
        _line("given, float32", [row for row in rows if row["method"] == "given"], dense, first["float32"])
    )
    for method in ("given", "trained on", *ORDER):
        own = [row for row in rows if row["method"] == method]
        for step in sorted({row["step"] for row in own}):
            same = [row for row in own if row["step"] == step]
            lines.append(_line(_title(same), same, dense))
    lines.append(f"test accuracy, medians over {len(dense)} seeds; to given: seed by seed")
    return "\n".join(lines)


def _title(same):
    one = same[0]
    zeros = f", {statistics.median(row['zeros'] for row in same):.2f} zeros" if "zeros" in one else ""
    return one["method"] + zeros


def _line(title, same, dense, file=None):
    values = [row["accuracy"] for row in same]
    change = statistics.median(row["accuracy"] - dense[row["seed"]] for row in same)
    gone = sorted(row["removed"] for row in same)
    count = str(gone[0]) if gone[0] == gone[-1] else f"{gone[0]}-{gone[-1]}"
    line = f"{title:<36}{count:>7}{statistics.median(values):>10.4f}{min(values):>8.4f}{max(values):>8.4f}"
    file = file or next((row for row in same if "us" in row), None)
    line += f"{change:>+10.4f}{round(statistics.median(row['convolutions'] for row in same)):>14}"
    return line + (f"{file['bytes']:>9,}{file['us']:>7.1f}" if file else "")
