"""Calibration with foreign images, plain noise or nothing at all: three controls beside real images.

The model, the seeds, the draws, the pruning in one step at 0.9 and the epoch of fine-tuning on real images are
those of `calibration_sources`, which has the sources that know the data; "real" is measured again here.
"fashion_mnist" is another draw from 20,000 real images of another set, pixels in [0, 1] too. "N(0, 1) noise" is
independent normal values that know nothing of the data: half of them are negative, which no pixel is (the
"gaussian_noise" of the other table has the mean and the deviation of every pixel). Rows with "no data" look at the
weights only. SynFlow was made for many small steps: it is there in one, as all the others, and in 100, with the
same fine-tuning. A rank is the correlation with the same criterion's scores from real images set aside.
"""

from benchmarks._parts import NO_DATA, images, kept, parts, real
from benchmarks.calibration_sources import BATCH, CRITERIA, FULL, QUICK, SPARSITY, _spread, _trained

OTHER, NOISE, STEPS = "fashion_mnist", "N(0, 1) noise", 100
SOURCES = ("real", OTHER, NOISE)
ALONE = ("magnitude", "synflow", f"synflow, {STEPS} steps", "random")


def samples_of(source, draws, model, other, count):
    """What stands in for real samples with one seed."""
    from keras_aeprune import calibration

    if source == OTHER:
        return calibration.get(other, samples=count, seed=draws.seed)
    if source == NOISE:  # without real samples to look at, it is N(0, 1)
        return calibration.source("gaussian_noise").draw(count, model=model, seed=draws.seed)
    return calibration.source(source).draw(count, real=draws.rest, model=model, seed=draws.seed)


def in_steps(model, steps):
    """Scores 1 and 0 of what SynFlow keeps and cuts in small steps, by kernel; the model stays as it is."""
    import keras

    from keras_aeprune import sparsity

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    sparsity.one_shot(copy, SPARSITY, criterion="synflow", rounds=steps, allocation="global", progress=False)
    return [(w != 0).astype("float32") for w in copy.get_weights() if w.ndim > 1]


def _with_samples(trial, draws, source, criterion, other):
    from keras_aeprune import criteria
    from keras_aeprune.search.calibration_trial import _Given, correlations, standard_ranks

    one = criteria.get(criterion)
    if criterion not in draws.ranks:
        draws.ranks[criterion] = standard_ranks(trial.scores(one, draws.reference))
    scores = trial.scores(one, samples_of(source, draws, trial.model, other, trial.samples))
    ranks = correlations(draws.ranks[criterion], standard_ranks(scores))
    return {**ranks, **trial.losses(_Given(scores), draws.seed)}


def _alone(trial, name, masks, seed):
    from keras_aeprune import criteria
    from keras_aeprune.search.calibration_trial import _Given

    if "," in name:
        return trial.losses(_Given(masks), seed)
    return trial.losses(criteria.Random(seed) if name == "random" else criteria.get(name), seed)


def run(quick):
    if real("mnist") is None:
        return NO_DATA
    from keras_aeprune import calibration
    from keras_aeprune.search.calibration_trial import Draws, Trial
    from keras_aeprune.sparsity import allocation

    settings = QUICK if quick else FULL
    (x, _), (test, _) = images("mnist")
    x, test = x[: settings["train"]], test[: settings["test"]]
    other = images(OTHER)[0][0][: settings["train"]]
    found = {}
    with parts("calibration_controls", quick) as folder:
        model = _trained(folder / "dense.weights.h5", x, settings)
        masks = in_steps(model, STEPS)
        budget = {"sparsity": SPARSITY, "samples": settings["samples"], "epochs": 1}
        pruning, fit = {"allocation": allocation.get("global")}, {"verbose": 0, "batch_size": BATCH}
        trial = Trial(model, calibration.get(x), calibration.get(test), budget, pruning, fit)
        key = {**settings, **budget, "dense_loss": trial.dense}
        for seed in range(settings["seeds"]):
            draws = Draws(trial, seed)
            for criterion in CRITERIA[2:] if quick else CRITERIA:
                for number, source in enumerate(SOURCES):
                    found.setdefault((criterion, source), []).append(
                        kept(
                            folder,
                            f"{criterion}-{number}-{seed}",
                            key,
                            lambda d=draws, s=source, c=criterion: _with_samples(trial, d, s, c, other),
                        )
                    )
            for number, name in enumerate(ALONE):
                found.setdefault((name, "no data"), []).append(
                    kept(folder, f"alone-{number}-{seed}", key, lambda n=name, s=seed: _alone(trial, n, masks, s))
                )
    rows = [
        {"criterion": criterion, "source": source, **rowed(cells)} for (criterion, source), cells in found.items()
    ]
    return {"rows": rows, "dense_loss": trial.dense, "seeds": settings["seeds"], "settings": settings}


def rowed(cells):
    """Mean and deviation over the seeds of what was measured; ranks are None where there are none."""
    from keras_aeprune.search.calibration_table import Spread

    names = ("by_kernel", "overall", "pruned", "tuned")
    return {k: Spread(tuple(c[k] for c in cells)).to_dict() if k in cells[0] else None for k in names}


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    lines = [
        f"mean +- deviation over {result['seeds']} seeds; dense mse {result['dense_loss']:.5f}",
        f"{'criterion':<21}{'source':<15}{'rank':>16}{'mse, pruned':>21}{'mse, fine-tuned':>21}",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['criterion']:<21}{row['source']:<15}{_spread(row['overall'], 3):>16}"
            f"{_spread(row['pruned'], 5):>21}{_spread(row['tuned'], 5):>21}"
        )
    return "\n".join(lines)
