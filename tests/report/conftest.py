"""Reading a page back."""

import html.parser

import pytest

VOID = {"meta", "img", "br", "path", "line", "link"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and gathers tables, pictures and charts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.images, self.charts, self.lines, self.text = [], [], [], 0, [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID or tag == "path":
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append(["", "winner" in attributes.get("class", "")])
        if tag == "img":
            self.images.append(attributes)
        self.charts += tag == "svg" and attributes.get("class") == "chart"
        if tag == "path":
            self.lines.append(attributes)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1][0] += data

    def row(self, first, columns=None):
        """The first table row that begins with a text, of tables with a number of columns."""
        return next(row for row in self.cells if row and row[0][0] == first and columns in (None, len(row)))


@pytest.fixture
def read_page():
    """Parses HTML; fails on tags that do not nest."""
    return Page
