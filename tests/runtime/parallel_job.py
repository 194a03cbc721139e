"""Six steps of training a U-Net and six of VDU on a DiT, on whatever devices there are.

    python parallel_job.py FOLDER [LAYOUT …] [--coordinator=… --processes=N --process=I]

For each of these `LAYOUTS`, or "jit", FOLDER/LAYOUT gets bytes.json, draw.txt (the compiled program
that draws VDU's noise) and, through `fit`, ddpm and vdu.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vdu_jax import data, objectives, posterior, training
from vdu_jax.diffusion.parameterization import epsilon
from vdu_jax.diffusion.schedule import make_schedule
from vdu_jax.models import dit, network, unet
from vdu_jax.runtime import artifacts, parallel, processes
from vdu_jax.runtime import fit as fit_lib

SHAPE = (8, 8, 1)
BATCH, STEPS = 16, 6
LAYOUTS = {
    "jit": parallel.Layout(),
    "fsdp": parallel.Layout(fsdp=8),
    "pmap": parallel.Layout(mode="pmap"),
}


def small_network():
    """A noise predictor with dropout, and its parameters."""
    net = unet.UNet(
        1, (8,), layers_per_block=1, num_groups=4, attention_levels=(), mid_attention=False,
        dropout=0.2,
    )  # fmt: skip

    return with_params(net)


def small_transformer():
    """A noise predictor of patches, and its parameters."""
    net = dit.DiT(1, patch_size=2, hidden_size=16, depth=1, num_heads=2)

    return with_params(net)


def with_params(net):
    """A network's noise predictor and its parameters."""

    @jax.jit
    def start(key):
        # The last layer starts at 0, as do a transformer's gates, and no gradient would reach what
        # is before them.
        return jax.tree.map(lambda p: p + 0.02, network.init_params(net, key, SHAPE))

    return network.make_score_fn(net), start(jax.random.key(3))


NETWORKS = {"ddpm": small_network, "vdu": small_transformer}


def make(name, make_network=None):
    """The objective, the start and the loaders of a job: the same for every layout."""
    score_fn, params = (make_network or NETWORKS[name])()
    predicts = epsilon(make_schedule(num_steps=50))
    trained = posterior.GaussianPosterior(
        jax.tree.map(lambda p: p + 0.01, params),
        jax.tree.map(lambda p: jnp.full(p.shape, 1e-3), params),
        jnp.int32(5),
    )
    if name == "ddpm":
        objective = objectives.ddpm(score_fn, predicts, dropout=True)
    else:
        settings = {"demixing": {"forget_share": 0.1, "reference_images": 32}}.get(name, {})
        objective = objectives.FACTORIES[name](score_fn, predicts, trained, 40, **settings)
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
    loaders = {
        kind: data.make_loader(
            data.ArraySource(images),
            BATCH,
            seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        for seed, kind in enumerate(sorted(objective.sees))
    }
    return objective, params, loaders


def run(folder, layout):
    """All that is written of a layout."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    for name in ("ddpm", "vdu"):
        objective, params, loaders = make(name)
        fit_lib.fit(
            objective,
            params,
            loaders,
            optimizer,
            key=jax.random.key(1),
            num_steps=STEPS,
            directory=folder / name,
            snapshot_steps=[STEPS],
            save_state_every=STEPS // 2,
            log_every=1,
            ema_decay=0.9,
            label=name,
            layout=layout,
        )
    mesh = parallel.make_mesh(layout.fsdp)
    state = parallel.place(training.init_state(params, optimizer, 0.9), mesh)
    held = {
        "bytes": parallel.bytes_per_device(state),
        "whole": parallel.total_bytes(state),
        "devices": jax.device_count(),
    }
    artifacts.write_json(folder / "bytes.json", held)
    batch = {kind: {"image": next(loader)["image"]} for kind, loader in loaders.items()}
    batch = parallel.shard_batch(batch, mesh)
    draw = jax.jit(parallel.shard_draw(objective.draw, mesh))
    program = draw.lower(jax.random.key(1), batch).compile().as_text()
    processes.from_leader((folder / "draw.txt").write_text, program)


def main(folder, *arguments):
    names = [name for name in arguments if name in LAYOUTS]
    which = dict(a.removeprefix("--").split("=") for a in arguments if a not in LAYOUTS)
    if which:
        coordinator, *numbers = (which[name] for name in ("coordinator", "processes", "process"))
        processes.connect(coordinator, *map(int, numbers))
    for name in names or ["jit"]:
        run(Path(folder) / name, LAYOUTS[name])
    processes.leave(failed=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
