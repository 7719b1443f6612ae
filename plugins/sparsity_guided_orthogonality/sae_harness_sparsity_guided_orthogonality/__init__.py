"""Orthogonality weighted by how often latents fire together."""
