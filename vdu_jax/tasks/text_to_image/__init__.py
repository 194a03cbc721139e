"""Feature unlearning from text-to-image models of Stable Diffusion's architecture.

D_f are the images whose caption contains a phrase. Unlearning changes only the U-Net; the
autoencoder and the text encoder stay as they are.
"""

from vdu_jax.tasks.text_to_image.task import TextToImage

__all__ = ["TextToImage"]
