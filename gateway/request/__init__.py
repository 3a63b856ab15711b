"""What a request is, without any I/O: its body, what that asks for, and what is known of it. Pure."""
