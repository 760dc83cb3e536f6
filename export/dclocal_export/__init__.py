"""Checkpoints to what a laptop runs: the vision graph, quantization and the proof that it is the same model."""
