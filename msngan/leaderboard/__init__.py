"""Score lines to rankings, one block a protocol, ranked inside it and nowhere else. No torch here.

A value of one protocol says nothing about a value of another: the number of samples alone moves a
Fréchet distance by more than most methods do. So nothing here compares two protocol_ids.
"""
