"""How fast, how much memory: measured, never asserted. `python -m benchmarks --help` lists them."""
