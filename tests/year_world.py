"""A simulated task over months: tickets come in, production answers them as well as its labels allow, corrections come
back for some of its mistakes, and a labeller does four reviews a working day.
Policy, state and harvest are the daemon's own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta

import msgspec
from loop_world import World, settings

from loop import commands as cmd
from loop.selection import Candidate, Wanted, select
from store import events as ev

TICKETS = 12  # a day
REVIEWS = 4  # a working day, training side; as many audit draws in a week
CORRECTED = 0.7  # of production's mistakes
CEILING = {"standard": 0.85, "overnight": 0.93}  # accuracy that no number of examples lifts that rank above
KNOWN = 25  # examples after which an adapter has gained half of what it can


def accuracy(plan: str, labels: int) -> float:
    """Of an adapter: a learning curve that flattens out, higher for a higher rank."""
    return 0.5 + (CEILING[plan] - 0.5) * (1 - 2 ** (-labels / KNOWN))


class Year(World):
    """A world with tickets, a queue and a labeller.

    `shares`: of each class among the tickets.
    """

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self.shares = dict(shares or {"a": 0.5, "b": 0.5})
        self.labels = list(self.shares)
        super().__init__(settings(labels=self.labels))
        self.chance = random.Random(1)  # noqa: S311
        self.tickets = 0
        self.truth: dict[str, str] = {}
        self.unseen: dict[str, Candidate] = {}
        self.queue: list[Wanted] = []
        self.labelled_for: list[str] = []  # why each training-side label was asked for, in order
        self.skill = {"zero-shot@1": 0.5}
        self.verdict = self.judged

    # what the world does

    def day(self, number: int) -> None:
        for _ in range(TICKETS):
            self.ticket()
        if number % 7 < 5:
            for one in self.take(REVIEWS):
                self.labelled_for.append(one.reasons[0].name)
                self.label(one.record_id, self.truth[one.record_id])
            if number % 7 == 0:
                for draw in range(REVIEWS):
                    self.label(f"audit-{number}-{draw}", self.labels[draw % len(self.labels)], side="exam")
        self.run()
        self.now += timedelta(days=1)

    def ticket(self) -> None:
        self.tickets += 1
        name, champion = f"r{self.tickets}", self.state.task("t").champion.answerer
        (truth,) = self.chance.choices(self.labels, list(self.shares.values()))
        right = self.chance.random() < self.skill.get(champion, 0.5)
        answer = truth if right else self.chance.choice([label for label in self.labels if label != truth])
        self.truth[name] = truth
        wrong = not right and self.chance.random() < CORRECTED
        self.happen(
            ev.RecordReceived(
                task="t", record_id=name, text_digest="", chars=1, source="inbox", side="train", audit=False,
                audit_probability=0.3, cluster=name, answer=answer, answered_by=champion,
            )
        )  # fmt: skip
        if wrong:
            self.happen(
                ev.FeedbackReceived(
                    task="t", record_id=name, label=truth, side="train", disagrees=True, answered_by=champion
                )
            )
        self.unseen[name] = Candidate(
            record_id=name, cluster=name, side="train", answer=answer, feedback=truth if wrong else None,
            margin=0.9 if right else 0.4,
        )  # fmt: skip

    def take(self, count: int) -> list[Wanted]:
        self.queue.sort(key=lambda one: -one.priority)
        taken, self.queue = self.queue[:count], self.queue[count:]
        return taken

    # what the machines of this world answer

    def carry_out(self, command: cmd.Command) -> None:
        if isinstance(command, cmd.Harvest):
            self.harvest()
        super().carry_out(command)
        if isinstance(command, cmd.StartTraining):
            cycle = self.state.task("t").cycle
            assert cycle is not None
            self.skill[cycle.adapter] = accuracy(cycle.plan, cycle.labels_train)

    def harvest(self) -> None:
        """As the daemon does it: the window's newest records, the rules of `selection`."""
        task, rules = self.state.task("t"), self.rules.tasks["t"].harvest
        found = select(
            list(self.unseen.values())[-1000:],
            rules,
            labels={label: task.labels_train.get(label, 0) for label in self.labels},
            room=max(0, rules.queue_size - len(self.queue)),
        )
        self.queue += found.wanted
        for one in found.wanted:
            del self.unseen[one.record_id]

    def judged(self, candidate: str, _: int) -> ev.Outcome:
        """A gate that is never wrong: it promotes what is no worse."""
        return "promote" if self.skill[candidate] >= self.champions_skill() else "reject"

    def champions_skill(self) -> float:
        return self.skill[self.state.task("t").champion.answerer]

    def happen(self, event: ev.Event, stream: str = "x") -> None:
        if isinstance(event, ev.AdapterPromoted):  # with the gain that the exam would have shown
            event = msgspec.structs.replace(event, gain=self.skill[event.answerer] - self.champions_skill())
        super().happen(event, stream)

    # what is asked of it afterwards

    @property
    def trainings(self) -> list[ev.DatasetFrozen]:
        return [one.event for one in self.log if isinstance(one.event, ev.DatasetFrozen)]

    @property
    def promotions(self) -> list[ev.AdapterPromoted]:
        return [one.event for one in self.log if isinstance(one.event, ev.AdapterPromoted)]
