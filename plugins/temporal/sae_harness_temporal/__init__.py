"""Temporal regularisation for sae-harness: the method `temporal` and the evaluator `temporal_stability`."""
