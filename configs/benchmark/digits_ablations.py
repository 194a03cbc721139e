"""What plain VDU owes to its settings, one at a time, on scikit-learn's 8x8 digits.

    vdu benchmark --config=configs/benchmark/digits_ablations.py --workdir=runs/benchmark/ablations

K checkpoints of one run (trajectory_K) and of K runs that share their initial parameters (runs_K),
gamma, anchor, the floor of the variances, the size of D_f (some 145 images a class; with 1 % there
is nothing to learn a detector from: see fashion_forget_size), and what goes beyond the paper: the
other families of the posterior, shrinkage and the natural step. Every other setting is that of
`vdu` here: gamma = 0.5, K = 8, not the gamma = 0.1 that tuning chose in digits_methods, with which
the variances have little weight. 19 further models are trained. Cost and figures:
docs/results/digits_ablations.md.
"""

import digits_methods

from vdu_jax import config as vdu_config

CHECKPOINTS = (2, 3, 5, 10, 20)


def get_config():
    config = digits_methods.get_config()
    config.benchmark.seeds = (0,)
    config.benchmark.grids = {}
    config.relearn.images = 0
    config.curve.images = 500
    config.evaluate.images = 3400  # of each of three classes: 10 200 a row

    settings_of_all = {"learning_rate": 1e-5, "gamma": 0.5}
    base = vdu_config.change_method("vdu", config.methods.vdu, settings_of_all)
    retrain = config.methods.retrain
    methods, changes = {"retrain": retrain, "vdu": base}, {}

    def vary(name, settings=None, section="posterior", **changed):
        name = name.replace(".", "_")
        methods[name] = vdu_config.change_method("vdu", base, settings or {})
        if changed:
            changes[name] = {section: changed}

    for count in CHECKPOINTS:
        vary(f"trajectory_{count}", count=count)
        vary(f"runs_{count}", source="runs", count=count)
    for gamma in (0.01, 0.1, 0.9):
        vary(f"gamma_{gamma:g}", {"gamma": gamma})
    vary("anchor_mean", {"anchor": "mean"})
    for quantile in (0.01, 0.5):  # vdu: 0.1
        vary(f"floor_{quantile:g}", floor_quantile=quantile)
    for share in (0.1, 0.3):
        vary(f"forget_{100 * share:.0f}_percent", section="forget", fraction=share)
    vary("shrinkage_0.5_trajectory_2", count=2, shrinkage=0.5)
    vary("low_rank", family="low_rank")
    vary("fisher", family="fisher")
    # 1/γ is the closed form with both terms as sums. Here both are means: with 3 nothing moves in
    # 60 steps, with 10 000 the guard stops at 30.
    vary("natural", {"optimizer": "natural", "learning_rate": 3000.0})
    config.methods = methods
    config.benchmark.changes = changes
    return config
