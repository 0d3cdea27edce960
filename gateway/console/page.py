"""The console's first page, its script and its style; all data come through the API."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import urlsplit

_HERE = Path(__file__).resolve().parent


def console_page(mlflow_url: str) -> tuple[str, str, str]:
    """The page, its script and its style.

    Args:
        mlflow_url: Linked when it is an HTTP address.
    """
    link = ""
    if urlsplit(mlflow_url).scheme in ("http", "https"):
        link = f'<a href="{escape(mlflow_url)}" rel="noopener">MLflow</a>'
    page = (_HERE / "index.html").read_text(encoding="utf-8").replace("<!--mlflow-->", link)
    script = (_HERE / "console.js").read_text(encoding="utf-8")
    style = (_HERE / "console.css").read_text(encoding="utf-8")
    return page, script, style
