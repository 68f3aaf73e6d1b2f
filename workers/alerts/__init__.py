"""Alerts: a person is told once when the line needs one, and once more when that is over.

conditions.py   what is wrong now: queue, disk, peers, failed jobs, certificates, database
memory.py       what was wrong before and who has been told, durable
channels.py     webhook.py and mail.py: how somebody is told
watch.py        the process that looks again and again
"""

from workers.alerts.channels import Channel, ChannelFailed, channels_of
from workers.alerts.message import trial_message
from workers.alerts.watch import Watch, run_watch

__all__ = ["Channel", "ChannelFailed", "Watch", "channels_of", "run_watch", "trial_message"]
