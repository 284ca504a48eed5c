"""Who calls, and how they prove it; the files that say so are loaded again when they change."""

from .authenticator import Authenticator, Peer, anonymous, bearer_token, certificate_subject, metadata_of, peer_of
from .expiry import ExpiryTimer

__all__ = [
    "Authenticator",
    "ExpiryTimer",
    "Peer",
    "anonymous",
    "bearer_token",
    "certificate_subject",
    "metadata_of",
    "peer_of",
]
