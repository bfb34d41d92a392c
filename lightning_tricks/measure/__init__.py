"""Ground floor: arithmetic. Imports torch and ``errors`` only: no Lightning, no logging, no files."""
