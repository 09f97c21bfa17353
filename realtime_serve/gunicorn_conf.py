"""Settings for gunicorn: `gunicorn -c python:realtime_serve.gunicorn_conf`.

Nothing depends on them: the server runs under any of gunicorn's settings. These are right for
streams, where gunicorn's own are for pages. What the command line and GUNICORN_CMD_ARGS say
counts more.
"""

wsgi_app = "realtime_serve.wsgi:app"

worker_class = "gevent"

timeout = 60
"""A worker that holds the GIL for less than this is slow, not dead."""

keepalive = 10
"""The default of 2 s races with clients that keep pooled connections for 5 s."""

graceful_timeout = 30
"""At SIGTERM, streams may run so long, less 1.5 s for the worker's exit."""

worker_connections = 2048
"""More than may run and wait (max_num_seqs, max_queue_depth), or health checks find no room."""

control_socket_disable = True
"""Nobody here uses it, and under --preload it can hang the start."""
