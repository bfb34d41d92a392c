"""Schedules: learning rates as pure functions of the number of applied updates. Acts after the optimizer's step."""
