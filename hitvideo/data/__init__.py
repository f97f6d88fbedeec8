"""Shards on disk, and the order in which they are read."""


class ShardError(ValueError):
    """A shard, or a sample in it, cannot be read or is not what its receipt says. Names the file and what was found."""
