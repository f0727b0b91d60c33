"""A run or a study as one HTML page that stands alone, made from its records. No torch here.

The records may come from anyone: each is read up to a size, checked, and escaped. What is missing
is said, with the command that would make it.
"""
