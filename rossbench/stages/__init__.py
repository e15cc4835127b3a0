"""From a spec to an artifact."""

from ..util import backend

backend.forget_unknown()
