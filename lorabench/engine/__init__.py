"""How cells run: load, adapt, train, evaluate, decompose, each in its own probe."""
