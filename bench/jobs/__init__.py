"""The jobs of the load generator, by what they look at. The generator is `bench/load.py`."""
