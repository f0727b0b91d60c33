"""Benchmarks: what a norm costs in a critic's pass, in a training step and at inference.

Every time is compared with that of a baseline in the same round. The variants take turns, so other
load on the machine affects all of them alike.
"""
