"""Spreads requests for the active model over the members of a fleet, this gateway among them.

`choice` decides and is pure; `members` knows who is there, by what control says; `spread` asks one member after another
until one answers; `view_link` brings control's view.
"""
