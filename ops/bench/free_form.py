"""The whole loop over answers in free words, on the real small model: what a prompt and what an adapter are worth.

    python ops/bench/free_form.py [--kind extraction|style] [--train 150] [--steps 60] [--folder DIR] [--seed 1]

A daemon of its own takes examples in, trains, looks at the exam, judges and promotes; nothing is decided here. Emails
about deliveries and their right answers are made from the lists below, so no two are the same and all are right:
`extraction` wants shop, order number, day and amount as JSON, `style` a reply in the house's fixed manner, scored by
chrF.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loop.bootstrap import App, open_app
from store import events as ev
from store.workspace import Workspace

SHOPS = ["Gartenwelt Ahorn", "Bike & Co", "Lamp House", "Nordic Wool", "Papeterie Zoë", "Hofer Tools", "Blue Kettle",
         "Marlow Books", "Tee Kontor", "Velo Lund", "Atelier Rossi", "Green Pantry"]  # fmt: skip
GOODS = ["a kettle", "two lamps", "a wool jumper", "winter tyres", "a set of chisels", "six notebooks", "garden hoses",
         "an atlas", "green tea", "a bell for my bicycle", "a picture frame", "a jar of honey"]  # fmt: skip
OPENINGS = ["Hello,", "Dear team,", "Good morning,", "Hi there,", "To whom it may concern:", "Hey,"]
FORMS = [
    "{opening} I bought {goods} from {shop} on the {day} (order {order}) and paid {amount} euros, but nothing came.",
    "{opening} order {order}, {goods}: {shop} took {amount} EUR off my account on the {day}. Where is the parcel?",
    "{opening} on the {day} I ordered {goods}. The shop was {shop}, number {order}, price {amount} euros. Thanks",
    "{opening} my parcel with {goods} is late. Shop: {shop}. Number: {order}. Ordered on the {day} for {amount} euros.",
    "{opening} {amount} euros gone since the {day} and no {goods} in sight! It is {shop}, number {order}.",
]
SCHEMA = {
    "type": "object",
    "properties": {
        "shop": {"type": "string"},
        "order": {"type": "string"},
        "day": {"type": "integer"},
        "amount": {"type": "number"},
    },
    "required": ["shop", "order", "day", "amount"],
    "additionalProperties": False,
}
TOML = """
[daemon]
tick_seconds = 1.0
settle_seconds = 0.0
rescan_seconds = 2.0
[wandb]
enabled = false
[tasks.mails]
kind = "{kind}"
{schema}
description = "{about}"
answer_tokens = 80
[tasks.mails.splits]
exam_share = 0.3
seed = {seed}
[tasks.mails.trigger]
first = {first}
every = 100000
[tasks.mails.training]
min_steps = {steps}
epochs = 3.0
max_length = 384
seed = {seed}
[tasks.mails.gate]
min_exam = 30
better_than_baseline = true
max_forgetting = 0.05
max_bits_rise = 0.05
"""
ABOUT = {
    "extraction": "shop, order number, day of the month and amount in euros of the order",
    "style": "Answer the customer's mail in our manner: greeting, the order, what we do, our name.",
}


def example(kind: str, chance: random.Random) -> tuple[str, Any]:
    """A mail and what is right."""
    shop, goods, opening = (chance.choice(names) for names in (SHOPS, GOODS, OPENINGS))
    order = f"{chance.choice('ABCKRT')}{chance.randrange(1000, 99999)}"
    day, cents = chance.randrange(1, 29), chance.randrange(300, 40000)
    text = chance.choice(FORMS).format(
        opening=opening, goods=goods, shop=shop, order=order, day=f"{day}.", amount=f"{cents / 100:.2f}"
    )
    if kind == "extraction":
        return text, {"shop": shop, "order": order, "day": day, "amount": cents / 100}
    return text, (
        f"Good day! We are sorry that {goods} of order {order} has not come yet. We have asked {shop} today and will "
        "write to you tomorrow. Warm regards, your Parcel Desk"
    )


def build(root: Path, kind: str, train: int, steps: int, seed: int) -> None:
    root.mkdir(parents=True)
    (root / "mails.schema.json").write_text(json.dumps(SCHEMA))
    schema = 'json_schema = "mails.schema.json"' if kind == "extraction" else ""
    first = round(0.9 * train)  # the draw of sides is by chance
    (root / "tuneloop.toml").write_text(
        TOML.format(kind=kind, schema=schema, about=ABOUT[kind], first=first, steps=steps, seed=seed)
    )
    Workspace.create(root).close()
    chance = random.Random(seed)  # noqa: S311
    made: dict[str, Any] = {}
    while len(made) < round(train / 0.7):
        text, right = example(kind, chance)
        made[text] = right
    lines = [json.dumps({"id": f"m{n}", "text": text, "target": right}) for n, (text, right) in enumerate(made.items())]
    folder = root / "inbox" / "mails"
    folder.mkdir(parents=True)
    (folder / "mails.jsonl").write_text("\n".join(lines) + "\n")


def past(app: App, kind: type[ev.Event]) -> list[Any]:
    return [one.event for one in app.workspace.log.select("type = ?", [kind.__name__])]


def told(app: App, console: Console) -> None:
    frozen, trained, looked = (
        past(app, kind)[-1] for kind in (ev.DatasetFrozen, ev.TrainingSucceeded, ev.EvaluationSucceeded)
    )
    judged = past(app, ev.CandidateJudged)[-1]
    warned = "; ".join(frozen.warnings) or "no warnings"
    console.print(f"{frozen.train} examples, {frozen.valid} to validate; {warned}")
    console.print(
        f"{trained.steps} steps in {trained.seconds:.0f} s, loss {trained.train_loss:.3f}, "
        f"{trained.tokens.get('median')} tokens in the median, peak {trained.peak_memory_mb:.0f} MB"
    )
    table = Table("answerer", "metric", "exam", "mean", "95% interval", "wholly right", "of another form", "ms")
    for one in looked.results:
        table.add_row(
            one.answerer, one.metric, str(one.n), f"{one.accuracy:.3f}", f"{one.low:.3f} to {one.high:.3f}",
            str(one.correct), str(one.invalid), f"{one.latency_ms:.0f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"{judged.verdict}: {judged.summary}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(ABOUT), default="extraction")
    parser.add_argument("--train", type=int, default=150, help="training-side examples, about")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    console = Console(width=120)
    root = options.folder or Path(tempfile.mkdtemp()) / "mails"
    build(root, options.kind, options.train, options.steps, options.seed)
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    with (root / ".tuneloop" / "logs" / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "loop.cli.main", "-w", str(root), "run"],
                                  stdout=log, stderr=subprocess.STDOUT, env=env)  # fmt: skip
        try:
            with open_app(root, env={}) as app:
                while not past(app, ev.AdapterPromoted) + past(app, ev.CandidateRejected):
                    failed = [one for one in past(app, ev.TrainingFailed) if one.parked]
                    if failed or daemon.poll() is not None:
                        sys.exit(f"{failed[0].reason if failed else 'the daemon ended'}; see {log.name}")
                    if past(app, ev.CandidateJudged):
                        break
                    time.sleep(1)
                told(app, console)
                time.sleep(15)  # a promotion takes the engine a moment
                for one in past(app, ev.AdapterPromoted):
                    console.print(f"{one.answerer} answers production")
        finally:
            daemon.terminate()
            daemon.wait(timeout=60)


if __name__ == "__main__":
    main()
