"""Many runs: attacks and defenses over data sets, networks and seeds."""

from goodnet.bench.zoo import Member, Task, cores, make_zoo, members, read_zoo, zoo_tasks

__all__ = ["Member", "Task", "cores", "make_zoo", "members", "read_zoo", "zoo_tasks"]
