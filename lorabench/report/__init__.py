"""How it is shown: plotly and jinja2, no torch."""
