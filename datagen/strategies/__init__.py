"""The strategies that come with Stepserve, one a file."""
