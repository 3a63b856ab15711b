"""A report in the form that was asked for."""

from typing import Annotated, Literal

from fastapi import Query, Response

from stepserve.report import html, markdown
from stepserve.report.blocks import Document

ReportFormat = Annotated[Literal["html", "markdown"], Query(alias="format")]


def report_response(document: Document, wanted: Literal["html", "markdown"]) -> Response:
    """A page that a browser opens without letting it do anything, or text."""
    if wanted == "html":
        headers = {"Content-Security-Policy": html.POLICY, "X-Content-Type-Options": "nosniff"}
        return Response(html.rendered(document), media_type=html.MEDIA_TYPE, headers=headers)
    return Response(markdown.rendered(document), media_type=markdown.MEDIA_TYPE)
