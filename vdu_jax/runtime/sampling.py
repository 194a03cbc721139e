"""Draw many images within a memory bound, spread over all devices."""

import contextlib
import functools
from collections.abc import Callable

import jax
import numpy as np
import tqdm

from vdu_jax.data import to_uint8
from vdu_jax.runtime import parallel, progress
from vdu_jax.types import Params


def make_sampler(
    draw_images: Callable[[Params, jax.Array], jax.Array],
    image_shape: tuple[int, int, int],
    *,
    batch_size: int = 250,
    fsdp: int = 1,
) -> Callable:
    """`sampler(params, seed, count, label, bar=None) -> uint8 (count, H, W, C)`, compiled once.

    It shows a bar with the label, or moves the one that is given on.

    Image i of a seed comes from the key fold_in(key(seed), i): the same noise for every model,
    whatever the count. Batches are of one size, so that nothing is compiled twice.

    Args:
      draw_images: `(params, keys) -> images` in [-1, 1], one for each key and of that key alone.
      fsdp: devices that share one copy of the parameters.
    """
    mesh = parallel.make_mesh(fsdp)
    batch_size = -(-batch_size // mesh.size) * mesh.size

    @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
    def draw(params: Params, seed: jax.Array, first: jax.Array) -> jax.Array:
        indices = first + jax.numpy.arange(batch_size)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(indices)
        keys = jax.lax.with_sharding_constraint(keys, parallel.batch_sharding(mesh))
        return draw_images(params, keys)

    def sampler(
        params: Params, seed: int, count: int, label: str, bar: tqdm.tqdm | None = None
    ) -> np.ndarray:
        params = parallel.place(params, mesh)
        images = np.empty((count, *image_shape), np.uint8)
        own = (
            progress.bar(count, label, unit="image") if bar is None else contextlib.nullcontext(bar)
        )
        with own as bar:
            for first in range(0, count, batch_size):
                part = images[first : first + batch_size]
                part[:] = to_uint8(jax.device_get(draw(params, seed, first)))[: len(part)]
                bar.update(len(part))
        return images

    return sampler
