"""What probes take where nothing is said: one home for command, API and workflow, which costs no import."""

BATCHES, STEPS = 16, 20  # passes of the gradient, and steps of the short training
MEAN_RANK = 8  # of a budget that is spread: PEFT's default r
