"""Vary plain VDU's settings one at a time at unlearning a class from models of 8x8 digits.

    vdu benchmark --config=configs/benchmark/digits_ablations.py --workdir=runs/benchmark/ablations

Varied are:

- the posterior's checkpoints: K of one run (trajectory_K), or those of K runs with the same
  initial parameters (runs_K);
- gamma, the anchor and the floor of the variances;
- the size of D_f, about 145 images a class. 1 % is too few to train a detector and is
  covered by fashion_forget_size;
- extensions of the paper: other posterior families, shrinkage and the natural-gradient step.

The base method `vdu` has gamma = 0.5 and K = 8. Tuning chose gamma = 0.1 in digits_methods, at
which the variances have little influence. Cost: trains 19 further models. Cost and figures:
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
    config.evaluate.images = 3400  # for each of three classes: 10 200 a row

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
    for quantile in (0.01, 0.5):  # `vdu` has 0.1
        vary(f"floor_{quantile:g}", floor_quantile=quantile)
    for share in (0.1, 0.3):
        vary(f"forget_{100 * share:.0f}_percent", section="forget", fraction=share)
    vary("shrinkage_0.5_trajectory_2", count=2, shrinkage=0.5)
    vary("low_rank", family="low_rank")
    vary("fisher", family="fisher")
    # The closed form has the learning rate 1/γ if both terms are sums. Here both are means: a rate
    # of 3 changes nothing in 60 steps; at a rate of 10 000 the guard ends the run at step 30.
    vary("natural", {"optimizer": "natural", "learning_rate": 3000.0})
    config.methods = methods
    config.benchmark.changes = changes
    return config
