"""Statistics: what a node did in the last hour, day and month, kept in its data directory.

history.py has the numbers and no I/O, files.py keeps them, recorder.py adds to them while a
process runs. Each process writes a file of its own and readers add up all, so that several
processes need no agreement, and one that is killed loses what it had not written yet: seconds.
"""
