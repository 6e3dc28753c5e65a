"""`make faults`: twenty faults on real workers, and after each the seven invariants of what was seen and stored."""
