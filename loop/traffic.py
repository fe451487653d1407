"""What went through the gateway since it started: answers by answerer, their latency, and every response's status."""

from __future__ import annotations

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loop.exposition import Family, Sample

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)  # seconds


class Traffic:
    """Counters in memory. Labels are names of our own, never a client's words, so their number is bounded."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._responses: Counter[int] = Counter()
        self._buckets: dict[tuple[str, str], list[int]] = {}  # one more than BUCKETS: slower than all
        self._seconds: dict[tuple[str, str], float] = {}

    def answered(self, task: str, answerer: str, status: int, seconds: float) -> None:
        """An answerer was asked, and a client got `status` after `seconds`."""
        key = (task, answerer)
        self._answers[(*key, status)] += 1
        buckets = self._buckets.setdefault(key, [0] * (len(BUCKETS) + 1))
        buckets[next((at for at, limit in enumerate(BUCKETS) if seconds <= limit), len(BUCKETS))] += 1
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def responded(self, status: int) -> None:
        self._responses[status] += 1

    def families(self) -> list[Family]:
        return [
            Family(
                "tuneloop_gateway_responses_total",
                "counter",
                "Responses of the gateway by HTTP status, refusals included.",
                [Sample(count, {"code": str(code)}) for code, count in sorted(self._responses.items())],
            ),
            Family(
                "tuneloop_gateway_answers_total",
                "counter",
                "Requests that reached an answerer, by task, answerer and the HTTP status that the client got.",
                [
                    Sample(count, {"task": task, "answerer": answerer, "code": str(code)})
                    for (task, answerer, code), count in sorted(self._answers.items())
                ],
            ),
            Family(
                "tuneloop_gateway_answer_seconds",
                "histogram",
                "How long clients waited for an answer, failures included.",
                [sample for key in sorted(self._buckets) for sample in self._histogram(*key)],
            ),
        ]

    def _histogram(self, task: str, answerer: str) -> list[Sample]:
        labels = {"task": task, "answerer": answerer}
        total, found = 0, []
        limits = [*(f"{limit:g}" for limit in BUCKETS), "+Inf"]
        for limit, count in zip(limits, self._buckets[task, answerer], strict=True):
            total += count
            found.append(Sample(total, {**labels, "le": limit}, "_bucket"))
        return [*found, Sample(self._seconds[task, answerer], labels, "_sum"), Sample(total, labels, "_count")]


class Counted:
    """ASGI middleware that counts every response."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._traffic.responded(int(message["status"]))
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)
