"""The results of tests/synthetic.py out of a real worker process, a few milliseconds a step: for tests that kill it."""
