"""The job kit: what kinds of jobs (evals, datagen, batches) and the queue that runs them share. No I/O but files."""
