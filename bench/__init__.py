"""Measurements: floors, peers and Headrace on the same machine in the same run (`python -m bench`)."""
