"""Profiles: what one (model, GPU, engine version) costs and holds. Start at `profile.py`."""
