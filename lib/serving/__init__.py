"""A page in the browser over a searchable index."""

from lib.serving.app import make_app
from lib.serving.server import listen, serve

__all__ = ["listen", "make_app", "serve"]
