"""Measured values on their way to the loggers: one copy to the host, every kind of logger, events and charts."""
