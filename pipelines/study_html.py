"""A study's report as a section of the page of `headwater report`."""

from __future__ import annotations

import base64

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipelines.store.root import Root
from pipelines.study_report import PAGE


def study_section(root: Root, folder: str, report: str) -> str:
    """The report as HTML that needs nothing beside it; empty where there is none.

    Headings are one step lower, the first one is left to the page around it, and figures are part of the text.
    """
    if not root.exists(folder, report, PAGE):
        return ""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(root.read_bytes(folder, report, PAGE).decode())
    if tokens and tokens[0].tag == "h1":
        tokens = tokens[3:]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1:]) + 1}"
        for child in token.children or []:
            _embed(root, folder, report, child)
    html: str = reader.renderer.render(tokens, reader.options, {})
    return html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _embed(root: Root, folder: str, report: str, token: Token) -> None:
    if token.type == "image":
        data = root.read_bytes(folder, report, str(token.attrs["src"]))
        token.attrs["src"] = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
