"""Rules that name ranks before training: plug-ins over what a few passes (or a few steps) tell of each module."""
