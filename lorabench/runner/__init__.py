"""How a study runs: plan, worker_pool, run, progress. Not named run, so that lorabench.run stays the function."""
