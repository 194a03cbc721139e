"""Networks as flax.linen modules: explicit parameters, explicit randomness."""
