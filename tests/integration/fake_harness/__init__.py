"""What `python -m lm_eval` finds in the environment of a fake harness: a small program with lm-eval's command line."""
