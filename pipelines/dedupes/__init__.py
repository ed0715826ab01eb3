"""The parts of the `dedupe` job: looks, facts, evaluation sets, pairs and verdicts, in the order of their use."""
