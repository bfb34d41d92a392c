"""Callbacks that look at a run now and then, judge what they see, and act: causes, alarms, actions, rollback."""
