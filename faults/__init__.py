"""`make faults`: twenty faults on real workers, and after each the seven invariants of what was seen and stored.

A tool of the tests, as `bench` is: nothing of the product imports it, so it may import from `tests` what both use, a
client's view and how a PostgreSQL is found. `peers/`: the same faults on what people write with other means.
"""
