"""/v1/responses that go on from an earlier one or belong to a conversation, and are kept by control."""
