"""The one chart layer of a report: inline SVG with axes, marks, a legend and a text alternative.

It needs no library and returns escaped markup. Colours are CSS variables of the page, so that a
chart follows its light or dark theme. Every line has its own marker and a legend in words: nothing
depends on colour alone.
"""
