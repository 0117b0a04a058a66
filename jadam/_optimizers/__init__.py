"""One file an algorithm family. `sgd.py` is the one to copy."""
