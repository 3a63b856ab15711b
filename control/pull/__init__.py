"""Getting models from a Hugging Face hub: `POST /pull`."""
