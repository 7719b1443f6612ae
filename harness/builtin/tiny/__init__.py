"""A tiny language model with its text, shipped so that everything runs without a download; see README.md here."""
