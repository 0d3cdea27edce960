"""The API reference as one HTML page of its own: no scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from gateway.openapi.document import build_document
from gateway.transcoder.contracts import Method

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
code,pre{font:14px/1.4 ui-monospace,monospace}
details{border-top:1px solid color-mix(in srgb,currentColor 20%,transparent);padding:.4rem 0}
summary{cursor:pointer}summary b{display:inline-block;min-width:4.5rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0}
h2{margin-top:2rem}.type{opacity:.75}
"""


def reference_page(methods: Sequence[Method], version: str) -> str:
    """The page, by service; schemas are linked."""
    document = build_document(methods, version)
    body = "".join(
        (
            f"<h1>{escape(document['info']['title'])} API</h1>",
            _paragraphs(document["info"]["description"]),
            '<p><a href="/openapi.json">OpenAPI document</a> · <a href="/">Console</a></p>',
            "".join(_service(document, tag) for tag in document["tags"]),
            "<h2>Schemas</h2>",
            "".join(
                _schema(name, schema) for name, schema in document["components"]["schemas"].items()
            ),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Modelyard API</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )


def _service(document: dict[str, Any], tag: dict[str, str]) -> str:
    operations = "".join(
        _operation(path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if tag["name"] in operation["tags"]
    )
    return f"<h2>{escape(tag['name'])}</h2>{_paragraphs(tag['description'])}{operations}"


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parameters = [p for p in operation.get("parameters", ()) if p.get("in") == "query"]
    rows = "".join(
        _row(p["name"], _type(p["schema"]), p.get("description", "")) for p in parameters
    )
    contents = "".join(_contents(operation))
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>'
        f"<b>{method.upper()}</b> <code>{escape(path)}</code></summary>"
        f"{_paragraphs(operation['description'])}"
        f"{f'<table>{rows}</table>' if rows else ''}{contents}</details>"
    )


def _contents(operation: dict[str, Any]) -> Iterator[str]:
    for label, holder in (
        ("Body", operation.get("requestBody")),
        ("Answer", operation["responses"]["200"]),
    ):
        for kind, content in (holder or {}).get("content", {}).items():
            schema = content["schema"]
            yield f"<p>{label} (<code>{escape(kind)}</code>): {_type(schema)}</p>"
            if "properties" in schema:
                yield _properties(schema)


def _schema(name: str, schema: dict[str, Any]) -> str:
    return (
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"{_paragraphs(schema.get('description', ''))}{_properties(schema)}</details>"
    )


def _properties(schema: dict[str, Any]) -> str:
    rows = "".join(
        _row(name, _type(field), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>Field<th>Type<th>Meaning</tr>{rows}</table>"


def _row(name: str, kind: str, text: str) -> str:
    return f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{_paragraphs(text)}</tr>"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}"><code>{name}</code></a>'
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_type(schema['additionalProperties'])}"
    kind = schema.get("format") or schema.get("contentEncoding") or schema.get("type", "any")
    return f'<span class="type">{escape(kind)}</span>'


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_code(escape(part))}</p>" for part in text.split("\n\n") if part)


def _code(text: str) -> str:
    parts = text.split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))
