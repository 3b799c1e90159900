"""Charts to files."""

import functools
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from shaketable.errors import InputError
from shaketable.files import write_atomically


def save(chart: Any, path: str | Path) -> Path:
    """Write a chart whole: ``.svg``, ``.png`` (twice the size on screen), ``.pdf``, ``.json`` (Vega-Lite) or ``.html``.

    The HTML file holds the programs that draw it (0.9 MB) and asks nothing of a network.

    Args:
        chart: a chart of this package or any other Altair chart.
        path: where to; the suffix says what.

    Returns:
        The path.

    Raises:
        InputError: a suffix that is none of these.
    """
    path = Path(path)
    spec, version = chart.to_dict(), _vega_lite()
    writers: dict[str, Callable[[], str | bytes]] = {
        ".svg": lambda: vl_convert.vegalite_to_svg(spec, vl_version=version),
        ".png": lambda: vl_convert.vegalite_to_png(spec, vl_version=version, scale=2),
        ".pdf": lambda: vl_convert.vegalite_to_pdf(spec, vl_version=version),
        ".json": lambda: json.dumps(spec, indent=1, ensure_ascii=False, allow_nan=False),
        ".html": lambda: _page(spec, path.stem),
    }
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: a figure is written as one of {', '.join(writers)}; give the file such a suffix.")
    content = writers[path.suffix.lower()]()
    whole = content.encode() if isinstance(content, str) else content
    write_atomically(path, lambda part: part.write_bytes(whole))
    return path


@functools.cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of 0.9 MB that defines ``vegaEmbed``; vl-convert brings it along."""
    bundle: Any = vl_convert.javascript_bundle  # its type stub calls an optional argument required
    return bundle(vl_version=_vega_lite())


def _vega_lite() -> str:
    """The version of Vega-Lite that Altair writes, as vl-convert spells it."""
    return "_".join(alt.SCHEMA_VERSION.split(".")[:2])


def _page(spec: dict[str, Any], name: str) -> str:
    """A page with one chart; ``<`` is escaped in the JSON so that no name can end the script."""
    data = json.dumps(spec, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<script>{javascript()}</script></head>\n<body><div id="figure"></div>\n'
        f'<script>vegaEmbed("#figure", {data}, {{renderer: "svg", actions: false}});</script></body></html>\n'
    )
