"""Promotion: whether a candidate may take the place of a baseline, by paired samples of a suite of datasets.

`request` is what is asked for, `pairs` the questions in the order in which they count, `sequential` and `rule` the
statistics (pure), `verdict` the decision of a run's files, `run` the job, `kind` what the job queue knows of it.
"""
