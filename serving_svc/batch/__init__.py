"""The work of batch predictions: input to shards, shards to scores on Ray Data, scores to a file.

A shard is a file of some thousand rows; its output is a file of the same number that is written at
once or not at all. Whatever ends half-way, the shards that have their output are not done again.
"""
