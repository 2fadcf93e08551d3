"""The page of `python -m analysis report`: summary.py, curves.py and pictures.py compute its parts.

page.py fills page.html, page.css and page.js. Plotly's JavaScript, from the installed package, draws the charts.
"""
