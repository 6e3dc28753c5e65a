"""The twenty faults on two chats as people write them with other means: *layer* and *resumable* of bench/peers.

They have no invariants to keep, so it is counted what is lost. They are treated kindly: their clients come back and
repeat what was not answered, as Headrace's do; a message that comes twice is accepted once; an answer that fails is
saved as far as it came; and a client reads again what is stored wherever it can know that it missed something.
"""
