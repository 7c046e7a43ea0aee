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


def assert_stands_alone(page: str) -> None:
    """That a page needs no other file, runs nothing, and describes every image."""
    links = re.findall(r'src="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert links
    assert all(link.startswith("data:image/") for link in links)
    assert "<script" not in page
    assert page.count("<img ") == len(re.findall(r'<img src="[^"]+" alt="[^"]{10,}">', page))
