"""One self-contained page from any set of results, and the same as Markdown.

    page = make_page([Path("bench.json"), Path("parity.json")])
    Path("report.html").write_text(render_html(page))

    sources.py   the results, and cells that say where in them a figure stands
    engines.py   which rows are of one engine, and what each is called
    speed_ups.py which engine is set against which FP32
    answer.py    the sentences at the top
    sections/    the parts of the page
    plots.py     plots as inline SVG (svg.py), drawn by matplotlib in the page's colours
    page.py      what all this is put together as
    html.py, markdown.py   how that is written

The same results give the same bytes.
"""

from alexnet_edge.report.compose import ReportSettings, make_page
from alexnet_edge.report.html import render_html
from alexnet_edge.report.markdown import render_markdown
from alexnet_edge.report.page import Page, printable

__all__ = ["Page", "ReportSettings", "make_page", "printable", "render_html", "render_markdown"]
