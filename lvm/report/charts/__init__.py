"""The one chart layer of a report: inline SVG with axes, marks, a legend and a text alternative.

Text in, escaped markup out, no library. Colours are CSS variables of the page, so that a chart
follows its light or dark theme. Every line has its own marker and a legend in words: nothing
depends on colour alone.
"""

from lvm.report.charts.axis import Axis as Axis
from lvm.report.charts.chart import IN_ROW as IN_ROW
from lvm.report.charts.chart import Chart as Chart
from lvm.report.charts.chart import Place as Place
from lvm.report.charts.chart import Point as Point
from lvm.report.charts.chart import Series as Series
from lvm.report.charts.style import Style as Style
from lvm.report.charts.style import legend as legend
from lvm.report.charts.style import line_sample as line_sample
from lvm.report.charts.style import sample as sample
from lvm.report.charts.style import style_of as style_of
from lvm.report.charts.style import swatch as swatch
from lvm.report.charts.tags import tag as tag
from lvm.report.charts.tags import words as words
