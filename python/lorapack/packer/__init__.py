"""The packer: which adapter goes on which GPU, with how many slots, and the proof of it.

Start at `pack.py`, which walks the other files: `problem` (what is asked), `split` (adapters that
need more than a place), `methods` (`greedy`, `greedy_paper`, `baselines`), `evaluate` (the one
question all of them put), `verify` (an hour of the twin on fresh seeds), `bound`, `plan`.
"""
