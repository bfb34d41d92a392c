"""What maintainers run: the lock and the bill of materials (docs/supply.md), and measurements of the code."""
