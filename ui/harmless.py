"""Text that others wrote, before it is drawn as Markdown.

Streamlit shows HTML as text, but an image is fetched as soon as it is drawn: a model that is told to, or made to, could
send what it was told to a stranger's server, and a text of megabytes stops the page.
"""

MOST_CHARACTERS = 100_000

_DESTINATIONS = ("](", "][", "]:")


def harmless(text: str) -> str:
    """The same text, whose images are shown as they are written; cut where it is too long to be drawn.

    Code is not told apart, since the browser's parser may see it elsewhere: `![` is left alone only where nothing in
    the text could be an image's address.
    """
    cut = len(text) - MOST_CHARACTERS
    if cut > 0:
        text = f"{text[:MOST_CHARACTERS]}\n\n… {cut} more characters are not shown."
    if "![" in text and any(mark in text for mark in _DESTINATIONS):
        return text.replace("![", "!\\[")
    return text
