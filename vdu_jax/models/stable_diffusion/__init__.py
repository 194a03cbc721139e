"""The three networks of Stable Diffusion (Rombach et al. 2022, arXiv 2112.10752).

`text_encoder` turns a prompt's tokens into embeddings, `unet_condition` predicts the noise of
latents given the embeddings, `vae` encodes images to latents and decodes them. Structure and names
follow Hugging Face diffusers and transformers, so that their weights map one to one.
"""
