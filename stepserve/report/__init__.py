"""A report that can be mailed as one file: blocks, written down once, and rendered as Markdown or as HTML.

Whatever a block holds is text: renderers escape it, so that a model's answer stays an answer. The HTML asks no other
host for anything, and runs no script.
"""
