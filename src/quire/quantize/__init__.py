"""Which weights matter, found by running a text, and checkpoints that are quantized accordingly."""
