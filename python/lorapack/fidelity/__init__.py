"""Fidelity: the twin held to a real engine.

``conform.py`` replays recordings of its decisions, ``validate.py`` its measured runs (through
``replay.py``), ``calibrate/`` fits a profile to measurements, ``scores.py`` says how far off.
"""
