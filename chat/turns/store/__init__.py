"""Every transaction on chats and turns: one function each, called through `streams.database.write`.

The database is the arbiter. What begins, ends, stops, asks or answers locks the chat's row first and reads
`deleted` under it; one function ends a turn, whoever calls it. What clients must hear of it is owed by the row.

Transactions stand in `beginning`, `asking`, `running`, `stopping`, `chats` and `tidying`. What they share, in `rows`,
`moves`, `owing`, `ordering` and `spending`, is called by them alone: each of its functions is a piece of one.
"""
