"""What a check finds wrong."""


class Trouble(Exception):
    """What is wrong and what to do, in words."""
