"""How a study runs: plan, crew, run, progress. Not named run, so that lorabench.run stays the function."""
