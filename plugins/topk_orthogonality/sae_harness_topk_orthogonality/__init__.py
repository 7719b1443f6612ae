"""Orthogonality of the pairs of latents that go together most."""
