"""What closed-form compensation takes back of the error of a cut by half, before any training.

Trained autoencoders are cut to half of the units of every layer, the code included, or of every hidden layer,
ranked by the size of weights or by elimination, and compensated on 2,048 training images. Taken back is the share
of the rise of the test error; 0 where the compensation found nothing better on the samples that it holds back.
"""

import itertools

from benchmarks._parts import NO_DATA, images, kept, parts

EPOCHS = 10
CRITERIA = ("magnitude", "elimination")
KEEP = {
    "all": {"dense": 0.5, "convolutional": 0.5},
    "hidden": {"dense": {"hidden_*": 0.5}, "convolutional": {"filters_*": 0.5}},
}
MODELS = {
    "mnist, dense 784-256-128-32": ("mnist", [784], "dense", {"encoding_dim": 32, "hidden_units": [256, 128]}),
    "fashion_mnist, dense 784-512-256-64": (
        *("fashion_mnist", [784], "dense"),
        {"encoding_dim": 64, "hidden_units": [512, 256]},
    ),
    "mnist, convolutional 16-32, code 32": (
        *("mnist", [28, 28, 1], "convolutional"),
        {"encoding_dim": 32, "filters": [16, 32]},
    ),
}


def _case(task, quick):
    import keras

    from keras_aeprune import models
    from keras_aeprune.shrinking.compensation import compensate
    from keras_aeprune.shrinking.planning import plan
    from keras_aeprune.shrinking.tracing import trace

    data, shape, kind, build = task
    (x, _), (test, _) = images(data, tuple(shape))
    epochs = EPOCHS
    if quick:
        x, test, epochs = x[:2000], test[:500], 2
    keras.utils.set_random_seed(0)
    model = getattr(models, kind)(tuple(shape), **build)
    model.compile("adam", "mse")
    model.fit(x, x, epochs=epochs, batch_size=128, verbose=0)
    found = {"given": model.evaluate(test, test, batch_size=1000, verbose=0)}
    traced = trace(model)
    for (what, keep), criterion in itertools.product(KEEP.items(), CRITERIA):
        made = plan(model, criterion, keep=keep[kind], data=x[:2048], round_to=1)
        small = made.apply(model)
        cut = small.evaluate(test, test, batch_size=1000, verbose=0)
        seconds = compensate(model, small, traced, made.kept(traced), x[:2048]).seconds
        after = small.evaluate(test, test, batch_size=1000, verbose=0)
        found[f"{what}, {criterion}"] = {"cut": cut, "compensated": after, "seconds": seconds}
    return found


def run(quick):
    from benchmarks._parts import real

    if real("mnist") is None:
        return NO_DATA
    with parts("compensation", quick) as folder:
        return {
            key.replace(",", "").replace(" ", "-"): {
                **kept(folder, str(n), [EPOCHS], lambda t=task: _case(t, quick)),
                "name": key,
            }
            for n, (key, task) in enumerate(MODELS.items())
            if not quick or n == 0
        }


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    head = f"{'test mse':<38}{'half of, ranked by':<22}{'given':>9}{'cut':>9}{'compensated':>13}"
    lines = [f"{head}{'taken back':>12}{'seconds':>9}"]
    for key, row in result.items():
        if key == "environment":
            continue
        for case in (f"{what}, {criterion}" for what, criterion in itertools.product(KEEP, CRITERIA)):
            one = row[case]
            share = (one["cut"] - one["compensated"]) / (one["cut"] - row["given"])
            lines.append(
                f"{row['name']:<38}{case:<22}{row['given']:>9.5f}{one['cut']:>9.5f}{one['compensated']:>13.5f}"
                f"{share:>12.2f}{one['seconds']:>9.1f}"
            )
    return "\n".join(lines)
