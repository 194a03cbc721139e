"""Feature unlearning from a text-to-image model: the stages of its configs.

    captioned images ──train──▶ train/model/, a diffusers folder (or model.folder, as it is)
                                   │
          posterior over the U-Net's checkpoints, replay drawn of other prompts
                                   ▼
    images with the phrase ──▶ unlearn ──▶ evaluate ──▶ report

Only the U-Net learns or unlearns; autoencoder and text encoder stay as they are.
"""
