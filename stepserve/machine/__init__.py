"""Whether this machine is fit for a server: `stepserve doctor --here`. A check is a sentence, or what to do."""
