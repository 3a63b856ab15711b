"""The strategies that come with Switchyard, one a file."""
