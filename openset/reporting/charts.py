"""The page's charts as Vega-Lite declarations; the page's script fills in their data.

Colours are the style sheet's variables, so that they follow the reader's light or dark page, and
expressions are interpreted, so that the page need not allow code made from text.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import altair as alt

from openset.reporting.axes import BARS

KINDS = ("known", "unknown")


HEIGHT = 280
"""Height of a chart in pixels; the width is the page's."""


@cache
def library() -> str:
    """Vega-Embed with Vega and Vega-Lite as one script."""
    from vl_convert import javascript_bundle

    return javascript_bundle("window.vegaEmbed = vegaEmbed;")


def declarations() -> dict[str, Any]:
    """All charts by the names under which the page's script finds them."""
    charts = {"histogram": histogram(), "roc": roc(), "rejection": rejection()}
    return {name: chart.to_dict() for name, chart in charts.items()}


def histogram() -> alt.LayerChart:
    """Shares of known and unknown scores by bar, and the threshold, which is a band if it is many.

    The axis counts bars; `ticks` and `texts` say which scores or p-values its places stand for.
    """
    text = alt.ExprRef("texts[indexof(ticks, datum.value)]")
    place = alt.X("x:Q", scale=alt.Scale(domain=[0, BARS], nice=False), title=None)
    axis = alt.Axis(values=alt.ExprRef("ticks"), labelExpr=text.expr, grid=False)
    bars = (
        alt.Chart(alt.NamedData("bars"))
        .mark_area(interpolate="step-after", line={"strokeWidth": 1.5}, fillOpacity=0.28)
        .encode(
            x=place.axis(axis),
            y=alt.Y("share:Q", stack=None, title=None, axis=alt.Axis(format="%", tickCount=4)),
            color=alt.Color(
                "kind:N",
                legend=None,
                scale=alt.Scale(
                    domain=["known", "unknown"], range=["var(--known)", "var(--unknown)"]
                ),
            ),
        )
    )
    edges = alt.Chart(alt.NamedData("threshold"))
    band = edges.mark_rect(fill="var(--ink)", opacity=0.1).encode(x="low:Q", x2="high:Q")
    rule = edges.mark_rule(stroke="var(--ink)", strokeWidth=2).encode(x="middle:Q")
    params = [alt.param(name="ticks", value=[]), alt.param(name="texts", value=[])]
    return _finished((bars + band + rule).add_params(*params), HEIGHT)


def roc() -> alt.LayerChart:
    """Shares of known and unknown accepted, as the threshold moves, for all detectors."""
    return _curves("share of unknown accepted", "share of known accepted")


def rejection() -> alt.LayerChart:
    """The share of answers that are right against the share of images answered "unknown"."""
    return _curves("share answered “unknown”", "share of the other answers that are right")


def _curves(across: str, up: str) -> alt.LayerChart:
    x = alt.X("x:Q", title=across, scale=alt.Scale(domain=[0, 1]), axis=_share_axis())
    y = alt.Y("y:Q", title=up, scale=alt.Scale(domain=[0, 1]), axis=_share_axis())
    lines = alt.Chart(alt.NamedData("curves")).encode(x=x, y=y, detail="case:N", order="order:Q")
    others = lines.mark_line(stroke="var(--faint)", strokeWidth=1.2)
    chosen = lines.mark_line(stroke="var(--accent)", strokeWidth=2.5)
    # Wide and invisible, so that a thin line can be pointed at.
    target = lines.mark_line(stroke="var(--ink)", strokeWidth=11, opacity=0).encode(
        tooltip="name:N"
    )
    point = (
        alt.Chart(alt.NamedData("point"))
        .mark_point(filled=True, size=90, fill="var(--accent)", stroke="var(--paper)", opacity=1)
        .encode(x="x:Q", y="y:Q")
    )
    layers = others + chosen.transform_filter("datum.case == chosen") + target + point
    return _finished(layers.add_params(alt.param(name="chosen", value=0)), HEIGHT)


def _share_axis() -> alt.Axis:
    return alt.Axis(format="%", tickCount=5)


def _finished(chart: Any, height: int) -> alt.LayerChart:
    """Gives a chart its size, and leaves colours and fonts to the style sheet."""
    return (
        chart.properties(width="container", height=height)
        .configure(background="transparent", aria=False)
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
        .configure_axisLeft(minExtent=34)
        .configure_axisBottom(minExtent=20)
    )
