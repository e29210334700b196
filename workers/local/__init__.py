"""A mailbox and a phone on this machine, so that `tocsin up` shows every channel without an account anywhere."""
