"""The echo app on the server that `run` uses: python -m support.echo_program PORT."""

import sys

from realtime_serve.api.pywsgi import serve_forever
from realtime_serve.app import EXTENSION
from support.echo_app import app

if __name__ == "__main__":
    serve_forever(app, app.extensions[EXTENSION].server, "127.0.0.1", int(sys.argv[1]))
