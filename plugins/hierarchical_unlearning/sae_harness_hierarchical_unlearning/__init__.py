"""Latents in two levels, and unlearning that uses both."""
