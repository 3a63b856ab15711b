"""A report as one HTML file: style and charts are in it, nothing is asked of another host, no script runs. Pure."""

from collections.abc import Sequence
from html import escape

from stepserve.report import svg
from stepserve.report.blocks import Bars, Block, Bullets, Curve, Document, Heading, Intervals, Paragraph, Table

MEDIA_TYPE = "text/html; charset=utf-8"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy: what a page needs that has all in itself."""

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5c6672;--line:#d5dae0;--paper:#fff;--main:#2458c5;--good:#1a7f37;
--bad:#c02b2b;--open:#8a6100}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b0;--line:#3a424c;--paper:#14171b;--main:#7aa5ff;
--good:#5fc57a;--bad:#ff8a80;--open:#e3b341}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem;overflow-wrap:anywhere}h2{font-size:1.2rem;margin-top:2rem}figure{margin:1rem 0}
figcaption{color:var(--soft)}svg{width:100%;height:auto;font:12px system-ui,sans-serif}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;
padding:.3rem .6rem;border-bottom:1px solid var(--line);white-space:pre-wrap;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:600}summary{cursor:pointer}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}.good,.bad,.open{font-weight:600}
.label{fill:var(--ink)}.note{fill:var(--soft)}.line,.curve{stroke:var(--main);stroke-width:2;fill:none}
.dot,.bar{fill:var(--main)}.band{fill:var(--main);opacity:.18}.tick{stroke:var(--soft)}
.mark{stroke:var(--soft);stroke-dasharray:4 3}
"""


def rendered(document: Document) -> str:
    body = "\n".join(_block(block) for block in document.blocks)
    title = escape(document.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Heading():
            said = f"<h2>{escape(block.text)}</h2>"
        case Paragraph():
            said = f'<p class="{block.tone}">{escape(block.text)}</p>'
        case Bullets():
            said = f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in block.texts)}</ul>"
        case Table():
            table = _table(block.columns, block.rows)
            folded = block.folded
            said = table if folded is None else f"<details><summary>{escape(folded)}</summary>{table}</details>"
        case Intervals():
            said = _figure(block.title, svg.intervals(block)) if block.rows else ""
        case Bars():
            said = _figure(block.title, svg.bars(block)) if block.rows else ""
        case Curve():
            said = _figure(block.title, svg.curve(block)) if block.points else ""
    return said


def _figure(title: str, drawing: str) -> str:
    return f"<figure>{drawing}<figcaption>{escape(title)}</figcaption></figure>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
