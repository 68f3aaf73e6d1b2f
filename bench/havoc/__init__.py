"""What bench/chaos.py is made of: a line of real processes, a modality that keeps sending, a PACS with moods, troubles,
and a judge of what must hold whatever happens.
"""
