"""Finds no fault."""


def check_cells(cells):
    return ()
