"""Task files of other eval harnesses (lm-eval, inspect-ai), run as eval jobs.

A harness is a program in a virtual environment of its own (`environments`). It runs on a leash (`leash`, `process`): in
a process group that dies with control, with limits. The only model it gets is a relay (`relay`) on a loopback port,
with a key of that attempt. The relay passes requests on to the engine below interactive ones, by the digest of the
job's model, and keeps the answers (`kept_answers`): a second attempt asks the engine only what the first had not asked.
What the harness has written at its end is read as an imported run is (`evals.interchange`), so it is compared and
reported as any eval.
"""
