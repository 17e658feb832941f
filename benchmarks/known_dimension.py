"""Is the dimension of data found? The width that a search answers with, for data whose dimension is known.

Linear: 12 normal factors, mixed into 64 values, with noise of 0.02 of their deviation. Manifold: 6 uniform factors
through a random network of two layers of tanh, with the same noise; PCA needs more numbers for it than there are
factors. 4,000 samples each, ten draws. Found is what lies within one step of the dimension. Beside it stand PCA's
answer under the same rule, and the width of the smallest loss, which a search for the loss alone would take.
"""

from benchmarks._parts import kept, parts

STEP = 2
WIDTHS = {"linear": range(4, 33, STEP), "manifold": range(2, 25, STEP)}
DIMENSION = {"linear": 12, "manifold": 6}
FULL, QUICK = (10, 4000, 30), (1, 1000, 15)  # draws, samples, epochs


def _data(name, seed, samples):
    import numpy as np

    random = np.random.default_rng(np.random.SeedSequence([seed, DIMENSION[name]]))
    if name == "linear":
        values = random.normal(size=(samples, 12)) @ random.normal(size=(12, 64))
    else:
        factors = random.uniform(-1, 1, (samples, 6))
        hidden = np.tanh(factors @ random.normal(size=(6, 64)) * 1.4)
        values = np.tanh(hidden @ random.normal(size=(64, 64)) * 0.19)
    values = values / values.std()
    return (values + 0.02 * random.normal(size=values.shape)).astype("float32")


def _answers(name, seed, samples, epochs):
    import numpy as np

    from keras_aeprune.search.rules import smallest_good
    from keras_aeprune.search.width import encoding_width

    x = _data(name, seed, samples)
    result = encoding_width(x, WIDTHS[name], max_epochs=epochs, seed=seed, progress=False)
    widths, curve = result.curve.widths, result.curve
    return {
        "found": result.encoding_dim,
        "pca": smallest_good(widths, curve.pca, result.mean_loss),
        "smallest_loss": widths[int(np.nanargmin(curve.tried))],
    }


def run(quick):
    import time

    draws, samples, epochs = QUICK if quick else FULL
    found = {}
    with parts("known_dimension", quick) as folder:
        for name in WIDTHS:
            began = time.perf_counter()
            found[name] = [
                kept(
                    folder,
                    f"{name}-{seed}",
                    [samples, epochs],
                    lambda n=name, s=seed: _answers(n, s, samples, epochs),
                )
                for seed in range(draws)
            ]
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return {"samples": samples, "epochs": epochs, "answers": found}


def show(result):
    lines = [f"{result['samples']} samples of 64 values, {result['epochs']} epochs, widths in steps of {STEP}"]
    lines.append(f"{'data':<10}{'truth':>6}{'within a step':>15}   answers   (PCA's; of the smallest loss)")
    for name, answers in result["answers"].items():
        near = sum(abs(answer["found"] - DIMENSION[name]) <= STEP for answer in answers)
        texts = [" ".join(str(answer[key]) for answer in answers) for key in ("found", "pca", "smallest_loss")]
        row = f"{name:<10}{DIMENSION[name]:>6}{f'{near} of {len(answers)}':>15}"
        lines.append(f"{row}   {texts[0]}   ({texts[1]}; {texts[2]})")
    return "\n".join(lines)
