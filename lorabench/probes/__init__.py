"""Rules that name ranks before training: plug-ins over what a few passes (or a few steps) tell of each module."""

BATCHES, STEPS = 16, 20  # passes of the gradient, and steps of the short training
MEAN_RANK = 8  # of a budget that is spread: PEFT's default r
