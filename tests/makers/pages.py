"""Reports as a reader sees them."""

import base64
import html
import re


def text_of(page: str) -> str:
    """What a reader sees: tags and images away, white space as one blank."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def figures(page: str) -> dict[str, str]:
    """The SVG source of every figure, by its alternative text."""
    found = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)">', page)
    return {html.unescape(alt): base64.b64decode(data).decode() for data, alt in found}
