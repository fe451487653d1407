"""One message to one target. An error names no address, header or answer: they may hold keys or texts."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import signal
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
import msgspec

from loop.notify.messages import Message
from loop.settings import NotifySettings

SLACK_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Undelivered(Exception):
    """The target has not taken the message; `str()` may be shown. `retry_after`: seconds it asked us to wait."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def deliver(target: NotifySettings, message: Message, env: Mapping[str, str], now: datetime) -> None:
    """Bring one message to its target, within the target's timeout.

    Args:
        target: its settings.
        message: carries the idempotency key: header `webhook-id` and field `key`; a command finds it on its stdin.
        env: for `url_env` and `secret_env`.
        now: aware; it is signed.

    Raises:
        Undelivered: it has not taken it, or not in time.
    """
    if target.kind == "command":
        _run(target, msgspec.json.encode(message), message.key)
        return
    url = target.url.get_secret_value() or env.get(target.url_env, "")
    if not url:
        raise Undelivered(f"{target.url_env} is not set")
    if target.kind == "slack":
        words = "\n".join(part for part in (f"*{message.title}*", message.text) if part)
        body = msgspec.json.encode({"text": words.translate(SLACK_ESCAPES)})
    else:
        body = msgspec.json.encode(message)
    headers = {"content-type": "application/json", "user-agent": "tuneloop", "webhook-id": message.key}
    if target.secret_env:
        key = env.get(target.secret_env, "")
        if not key:
            raise Undelivered(f"{target.secret_env} is not set")
        headers |= signature(key, message.key, now, body)
    asyncio.run(_post(url, body, headers, target.timeout_seconds))


def signature(key: str, name: str, now: datetime, body: bytes) -> dict[str, str]:
    """The headers that sign a webhook, as the Standard Webhooks say: HMAC-SHA256 over "id.timestamp.body".

    A key that begins with "whsec_" is base64; any other is taken as it is.

    Raises:
        Undelivered: the key is no base64.
    """
    try:
        encoded = key.startswith("whsec_")
        secret = base64.b64decode(key.removeprefix("whsec_"), validate=True) if encoded else key.encode()
    except binascii.Error:
        raise Undelivered("the key for signing is no base64") from None
    stamp = str(int(now.timestamp()))
    signed = hmac.new(secret, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {"webhook-timestamp": stamp, "webhook-signature": f"v1,{base64.b64encode(signed).decode()}"}


async def _post(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> None:
    try:
        # httpx limits each read only: a server that sends a byte now and then would hold us for ever
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(timeout=seconds, trust_env=not _is_loopback(url)) as client,
            client.stream("POST", url, content=body, headers=headers) as reply,
        ):
            status, wait = reply.status_code, _retry_after(reply.headers.get("retry-after", ""))
    except TimeoutError:
        raise Undelivered(f"no answer within {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        # not chained: the original may quote the address
        raise Undelivered(f"it cannot be reached: {type(error).__name__}") from None
    if not 200 <= status < 300:
        raise Undelivered(f"HTTP {status}", wait)


def _retry_after(value: str) -> float | None:
    """Seconds, from a number or a date (RFC 9110)."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _run(target: NotifySettings, body: bytes, key: str) -> None:
    try:
        child = subprocess.Popen(
            target.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TUNELOOP_NOTIFY_KEY": key},
            start_new_session=True,
        )
    except OSError as error:
        raise Undelivered(f"the command cannot be started: {error.strerror}") from None
    try:
        child.communicate(body, timeout=target.timeout_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # and whatever it has started
        child.wait()
        raise Undelivered(f"the command did not end within {target.timeout_seconds:g} s") from None
    if child.returncode:
        raise Undelivered(f"the command ended with code {child.returncode}")
