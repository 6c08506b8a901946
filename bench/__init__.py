"""Benchmarks: figures as ratios to a reference measured in the same run.

    python -m bench              every benchmark
    python -m bench NAME …       some of them

Runs are interleaved, each figure is a median, and processor time is shown beside wall time.
"""
