"""Feature unlearning from a text-to-image model of Stable Diffusion's architecture.

Images whose caption has a phrase are to be forgotten. Only the U-Net learns or unlearns;
autoencoder and text encoder stay as they are.
"""

from vdu_jax.tasks.text_to_image.task import TextToImage

__all__ = ["TextToImage"]
