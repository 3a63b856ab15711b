"""OpenAI's Files and Batches: uploads on disk, and batches as jobs of the queue."""
