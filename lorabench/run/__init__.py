"""How a study runs: plan, runner, progress."""
