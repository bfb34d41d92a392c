"""What an installation consists of: requirements.lock, and the bill of materials. See docs/supply.md."""
