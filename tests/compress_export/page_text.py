"""The text of a page of HTML, for the tests of reports."""

from html.parser import HTMLParser


class Elements(HTMLParser):
    """Every start tag of a page, with its attributes, and all text outside scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.inside = [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text += f" {data} "

    def handle_endtag(self, _tag):
        self.inside = ""


def words(text):
    return " ".join(text.split())
