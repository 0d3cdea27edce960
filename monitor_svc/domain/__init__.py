"""The rules of monitoring: sketches, references, judgements, quality and alerts."""
