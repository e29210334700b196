"""The channels this fleet runs. A channel knows one provider and nothing else; each is a module with

NAME      the channel's name, as in deliveries.channel, and of its queue `deliver-NAME`
SERVES    what types and preferences call it: one of schema.notification.CHANNELS
SCHEDULE  seconds to wait after the first, second, … failed try; spent, the delivery is dead
BATCH     deliveries it is given at once, at most
AT_ONCE   batches that a process has in hand, running or waiting: more where a provider is slow to answer
LEASE     seconds after which a claimed delivery that nobody settled may be claimed again: longer than any batch
          takes
ready     () -> bool: whether this process is configured to reach the provider
send      list[schema.delivery.Parcel], Resources -> one outcome per parcel, in order; it never raises for what a
          provider may do

The web channel is given rows of inboxes instead (workers/channels/web.py), and needs neither lease nor claim.
"""

from workers.channels import email, fcm, web, webpush

CHANNELS = (web, email, fcm, webpush)
