"""Profiles from measurements. Start at `campaign.py` (serving campaigns) or `recordings.py`.

Reading guide: `observations.py` is what any measurement says of the step time; `step_logs.py`,
`serving.py` and `windows.py` make it of step logs, of whole runs seen through the twin and of
polled metrics; `step_time.py` fits the physical form to it. `memory.py`, `loading.py`,
`lengths.py` and `front_end.py` fit the other parts of a profile. `campaign.py` and
`recordings.py` put a profile together from a folder of either kind; `recorded_run.py` and
`recorded_batch.py` read recordings, `recorded_replay.py` replays them end to end.
"""
