"""Benchmarks: what a norm costs in a critic's pass, a GAN's step and at inference.

All times are ratios to a baseline of the same round: variants take turns, so that what disturbs a
machine disturbs all of them alike. Absolute times are in the JSON only.
"""
