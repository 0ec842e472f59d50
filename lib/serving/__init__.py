"""A page in the browser over a searchable index."""

from .app import make_app
from .server import listen, serve

__all__ = ["listen", "make_app", "serve"]
