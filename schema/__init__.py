"""What flows: values, errors, wire formats and tables. No I/O.

The words, used the same in code, tables, wire, docs and screen:

event         a fact that a backend service enqueued: a type, recipients, data
recipient     the user an event is addressed to, by the producer's own id
notification  event x recipient: what one person is told about one event
channel       a way to a person: web, email, push
address       where a channel reaches a person: an inbox, an email address, a device
delivery      one notification on its way to one address over one channel
attempt       one try of a delivery
type          what kind of event it is; one folder below templates/
category      what a person mutes as one: several types
group         several notifications of one type shown as one row
inbox         a person's list, with its order (seq) and unread count
claim/settle  taking a delivery before a try, and recording the outcome after it
rescue        putting back in motion what a lost message left behind
"""
