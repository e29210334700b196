"""The channels this fleet runs. A channel knows one provider and nothing else; each is a module with

NAME      the channel's name, as in schema.notification.CHANNELS
SCHEDULE  seconds to wait after the first, second, … failed try; spent, the delivery is dead
send      list[Item], Redis -> one outcome per item, in order; it never raises for what a provider may do

and is served by the queue `deliver-NAME`.
"""

from workers.channels import web

CHANNELS = (web,)
