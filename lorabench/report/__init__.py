"""How it is shown: tables, figures, the page. plotly and jinja2; never torch."""
