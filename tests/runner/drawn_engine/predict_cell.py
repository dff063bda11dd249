"""Predicts nothing."""


def predict_memory(cell):
    return None
