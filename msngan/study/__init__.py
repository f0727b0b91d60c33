"""A grid of runs as one thing: planned from a file, trained to the end however often it is stopped.

Its state is that of its runs' folders, which a kill leaves whole; nothing else is remembered.
"""
