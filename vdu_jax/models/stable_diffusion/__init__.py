"""The three networks of Stable Diffusion (Rombach et al. 2022, arXiv 2112.10752).

`text_encoder` turns a prompt's tokens into embeddings, `unet_condition` predicts the noise of a
latent given them, `vae` goes between images and latents. Structure and names follow Hugging Face
diffusers and transformers, so that their weights map one to one.
"""
