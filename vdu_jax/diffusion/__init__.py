"""Diffusion mathematics as pure functions: schedules, losses, samplers, likelihood."""
