"""Every bound of Headrace, by name and unit. `settings.HEADRACE` is the one instance.

Each may be set by an environment variable `HEADRACE_<NAME>`; the defaults are those of the wire contract.
"""

from typing import Annotated

import msgspec
from msgspec import Meta


class Bounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # frames and commands
    frame_in_bytes: int = 256 * 1024
    text_chars: int = 32_000
    json_depth: int = 32
    json_brackets: int = 10_000
    commands_per_s: float = 20
    commands_burst: int = 40
    acks_per_s: float = 50
    acks_burst: int = 100
    refusals_per_minute: int = 200
    bad_frames_per_minute: int = 10
    frames_per_s: float = 200
    frames_burst: int = 400
    frames_bytes_per_s: float = 1024 * 1024
    frames_bytes_burst: int = 2 * 1024 * 1024
    command_bytes: int = 16 * 1024
    ack_window_bytes: int = 256 * 1024
    event_bytes: int = 64 * 1024
    snapshot_bytes: int = 256 * 1024
    snapshot_messages: int = 50
    command_kept_days: int = 7
    # sockets
    sockets_per_user: int = 20  # over all workers, readers of events included
    sockets_per_address: int = 200  # the same; of IPv6 a /64 is one
    places_kept_s: float = 15  # that a socket counts since its worker last said so: those of a killed one end by it
    places_every_s: float = 5  # a worker says so
    chat_idle_s: float = 3600
    unsent_bytes: int = 1024 * 1024
    send_timeout_s: float = 10
    socket_end_s: float = 5  # that the task of a socket has to end
    ping_every_s: float = 20
    ping_timeout_s: float = 15
    sse_comment_s: float = 15
    auth_warning_s: float = 60
    auth_grace_s: float = 30
    auth_check_s: float = 4
    ticket_s: float = 60
    keys_per_user: int = 50
    # requests
    body_bytes: int = 2 * 1024 * 1024
    body_s: float = 30
    file_body_s: float = 120
    keep_alive_s: int = 5
    request_head_s: float = 10  # that a client has to send the head of a request, a handshake's too
    linger_s: float = 2  # that the rest of a refused body is read: else its peer may never see the answer
    linger_bytes: int = 8 * 1024 * 1024
    listen_backlog: int = 2048  # connections that the kernel keeps until they are taken
    logins_per_name_a_minute: int = 10
    logins_per_address_a_minute: int = 60
    logins_at_once: int = 2
    logins_waiting: int = 20
    login_wait_s: float = 5
    known_login_s: float = 5  # a log-in that was looked up is believed so long
    known_logins: int = 10_000  # that a process remembers
    logins_kept_s: float = 90 * 86400  # since somebody logged in, however often he refreshed it: then once more
    pdfs_at_once: int = 2  # read by a process: each may take 512 MiB and a core for seconds
    checks_at_once: int = 2  # of graphs, by a process
    exports_at_once: int = 8  # of chats, by a process, until they are read: each holds some pages
    exports_per_user: int = 2  # of those
    export_page_bytes: int = 256 * 1024  # read and sent at a time; one message may be larger
    export_s: float = 600  # that its reader may take
    page_bytes: int = 4 * 1024 * 1024  # of a page of messages; one message may be larger
    requests_waiting: int = 20  # behind those of each kind
    request_wait_s: float = 5
    rest_requests_per_minute: int = 1200
    rest_anonymous_per_minute: int = 60
    # turns
    turns_per_user: int = 5
    turns_per_worker: int = 500
    queue_length: int = 5
    turn_running_s: float = 600
    handler_end_s: float = 2
    file_bytes: int = 10 * 1024 * 1024
    files_per_say: int = 10
    file_text_chars: int = 100_000
    picture_pixels: int = 50_000_000
    pdf_memory_bytes: int = 512 * 1024 * 1024  # of the process that reads one
    pdf_cpu_s: int = 10
    pdf_s: float = 20
    pdf_unfold_ratio: int = 100  # of what one of its streams may unfold to, to the size of the file
    pdf_unfold_bytes: int = 4 * 1024 * 1024  # which it may unfold to in any case
    file_unnamed_s: float = 86400
    files_bytes_per_user: int = 1024 * 1024 * 1024  # all that he has sent and not removed
    question_s: float = 7 * 86400
    answer_bytes: int = 1024 * 1024
    turn_nodes: int = 200
    turn_nodes_bytes: int = 64 * 1024
    max_takeovers: int = 3
    stop_poll_s: float = 2
    debug_chat_kept_s: float = 86400
    # the event log
    log_kept_s: int = 3600
    log_events: int = 500
    log_bytes: int = 4 * 1024 * 1024  # of a chat; then fewer events are kept, yet all of an unfinished turn
    ring_events: int = 512
    ring_bytes: int = 1024 * 1024
    tops_every_s: float = 5
    log_page_events: int = 128  # of one read for one socket
    log_page_bytes: int = 256 * 1024
    log_retry_s: float = 1  # after a read or snapshot that Redis or the database did not answer
    redis_timeout_s: float = 1
    redis_connections: int = 32  # for rare calls; past it a call waits, then fails
    redis_flight_calls: int = 1000  # what goes out in one write must be answered within one time-out
    redis_flight_bytes: int = 4 * 1024 * 1024
    pending_events_s: float = 10
    pending_events_bytes: int = 1024 * 1024
    pending_tokens: int = 4000
    # workers
    beat_s: float = 3
    dead_after_s: float = 10
    loop_stands_s: Annotated[float, Meta(ge=0, le=86400)] = 30  # then the process ends, its stacks in the log; 0: never
    sweep_s: float = 3
    sweep_rows: int = 200  # of each kind in one sweep, in no order: who is put off stands before nobody
    chats_ended_at_once: int = 50  # of a deleted flow, in one transaction
    counters_every_s: float = 5
    metrics_every_s: float = 5  # a worker leaves its figures for `/metrics` of the others
    session_samples: int = 120  # points of a session's plot
    sessions_kept_s: float = 90 * 86400  # rows of sockets, since they ended
    drain_turns_s: float = 20
    drain_sockets_s: float = 3
    leave_s: float = 5  # that connections and requests have to end after the drain
    worker_deaths: int = 5  # within `worker_deaths_within_s`, after which the supervisor gives up
    worker_deaths_within_s: float = 60
    worker_restart_after_s: float = 1
    buried_kept_s: float = 86400  # rows of dead workers, for whoever looks what happened
    purge_rows: int = 500  # that are removed in one go, of what is past its time
    snapshot_tries: int = 8  # while events come faster than rows are read
    doctor_socket_s: float = 5  # that `manage.py doctor` waits for its socket
    embedded_start_s: float = 30  # a start reads the append-only file, at most EMBEDDED_MB of it
    # the admin
    admin_rows: int = 50  # of a page
    admin_counted_rows: int = 10_000  # no list counts further
    admin_totalled_rows: int = 100_000  # that totals sum, the newest
    admin_operated_rows: int = 100  # stopped or closed at a time
    admin_messages: int = 100  # of a transcript, the newest
    admin_tree_messages: int = 5000  # of a chat whose branches are told
    admin_log_events: int = 2000  # of a chat's log that are looked through for nodes
    admin_figure_turns: int = 5000  # that a figure is made of, the newest
    admin_poll_s: float = 3  # an open page asks again
    # database
    database_threads: int = 4
    database_waiting: int = 5000
    command_hop_s: float = 2
    database_pause_s: float = 3  # at most, between two tries
    database_group_jobs: int = 64  # committed together, on SQLite
    database_group_s: float = 0.01  # that a group runs for before it is committed, the last of its jobs apart
    database_lock_s: float = 0.5  # that a statement waits for what another holds; then its hop tries again
    database_statement_s: float = 30  # of one statement; migrations take their time
    database_idle_s: float = 5  # of a transaction whose process does nothing: a frozen one lets its rows go
    database_silence_s: float = 10  # of the database's machine, after which the connection is given up
    # providers
    provider_connect_s: float = 5
    provider_first_token_s: float = 30
    provider_between_tokens_s: float = 20
    usage_tokens: int = 1_000_000_000  # of one call, whatever the vendor says
    budgets_fresh_s: float = 5  # the first budget of all counts so much later at most
    provider_fresh_s: float = 5  # a row that was changed is used so much later at most
    # flows
    build_lease_s: int = 60
    build_kept_s: int = 86400
    build_poll_s: float = 0.05  # of who waits for a build that runs elsewhere
    publish_tries: int = 3  # when the draft is saved between build and publication
    slug_tries: int = 5  # when another flow takes the slug that was free
    plans_kept: int = 256  # compiled graphs, by a process
    plans_kept_chars: int = 16 * 1024 * 1024  # of their templates
    versions_kept_bytes: int = 16 * 1024 * 1024  # graphs of versions, by a process
    graph_bytes: int = 1024 * 1024
    graph_nodes: int = 500
    graph_template_tags: int = 5000
    node_visits: int = 20
    vars_bytes: int = 64 * 1024
    data_bytes: int = 1024 * 1024  # as JSON: what a turn ends with, a step's result, what a node puts together
    results_bytes: int = 8 * 1024 * 1024  # as JSON: what the nodes of one run have given so far
    node_outputs_bytes: int = 1024 * 1024  # that one run shows in its `node` events
    history_messages: int = 50
    template_chars: int = 32_000
    template_filter_chars: int = 64 * 1024
    template_output_chars: int = 256 * 1024
    template_steps: int = 100_000
    template_work_chars: int = 4_000_000
    template_tags: int = 500  # in one template
    node_template_tags: int = 1000  # in all templates of a node
    template_tag_chars: int = 1000
    template_tag_brackets: int = 20
    template_nesting: int = 30  # of blocks
    template_loop_rounds: int = 10_000  # of all loops of one rendering together
    template_list_items: int = 10_000
