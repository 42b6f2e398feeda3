"""Plans a shared site and its mesh from one node to 10,000 nodes and 1,000 million objects.

    python -m tests.scale [--seed N] [--quick] [--table NAME]

What nodes decide is the code of the product, run in virtual time: when they poll and beat, who
takes a role over, what goes into one transaction, what one flush covers, which rows a peer is
offered. The database is a queue with cores, a lock and a disk, whose costs were measured
(costs.py). The rest is arithmetic over constants of the product. One seed gives one output.
`python -m tests.scale.reality` measures the costs on a real PostgreSQL, and says how far the
simulation is off.
"""
