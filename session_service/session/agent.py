"""What a user agent means."""

from __future__ import annotations

import logging

import ua_parser
from user_agents.parsers import UserAgent, parse_browser, parse_device, parse_operating_system

__all__ = ["parse_user_agent"]

logger = logging.getLogger(__name__)


# user-agents has no types.
class _UserAgent(UserAgent):  # type: ignore[misc]
    """A `user_agents.parsers.UserAgent` that ua-parser's own interface has found the parts of.

    `user_agents.parse` asks ua-parser's oldest interface, which tries one regular expression after the other.
    """

    def __init__(self, text: str, found: ua_parser.Result) -> None:
        parts = found.with_defaults()
        agent, system, device = parts.user_agent, parts.os, parts.device
        self.ua_string = text
        self.browser = parse_browser(agent.family, agent.major, agent.minor, agent.patch)
        self.os = parse_operating_system(system.family, system.major, system.minor, system.patch, system.patch_minor)
        self.device = parse_device(device.family, device.brand, device.model)


def parse_user_agent(text: str) -> UserAgent:
    """Return what is known of a user agent, from any thread; nothing, but the text, of one that cannot be parsed."""
    try:
        return _UserAgent(text, ua_parser.parse(text))
    except Exception:  # such as a ValueError of `int("²")`: the text is a stranger's, and the code is not ours
        logger.debug("a user agent cannot be parsed: %.100r", text, exc_info=True)
        return _UserAgent(text, ua_parser.Result(user_agent=None, os=None, device=None, string=text))
