"""Trackers of experiments: plug-ins, each with open_tracker(study) -> record.tracked.Tracker. Their libraries are
extras."""
