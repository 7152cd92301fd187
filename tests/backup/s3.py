"""An S3 server by TLS, with one bucket. Arguments: port, certificate, key."""

import sys

from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends

port, certificate, key = sys.argv[1:]
s3_backends["123456789012"]["aws"].create_bucket("backups", "us-east-1")
app = DomainDispatcherApplication(create_backend_app)
# The server that comes with it ends TLS without saying so, which pgBackRest takes for an answer cut short.
server = Server(("127.0.0.1", int(port)), app)
server.ssl_adapter = BuiltinSSLAdapter(certificate, key)
server.start()
