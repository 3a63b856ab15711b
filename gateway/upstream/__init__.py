"""Other hosts: requests for models that they have, or below a tier's path, are streamed there and back."""
