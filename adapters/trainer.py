"""TRL's trainers with evaluation by task accuracy and checkpoints that survive any death; SFTTrainer with packed
micro-batches too."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback
from trl import SFTTrainer

from adapters import checkpoints, methods
from adapters.child import Journal, Stopping, Threads, Unrecoverable, trim_memory
from adapters.order import Stratified
from adapters.packed import can_pack, label_log_likelihoods, pack
from adapters.specs import Metric, read_json, write_json
from store.errors import StepError
from store.kill_points import reached

TRIM_EVERY = 5  # steps
KEEP = 2  # checkpoints


class LabelledPrompts(msgspec.Struct, frozen=True):
    """Validation examples: prompts in tokens, the labels' tokens, and which label is right. Where answers are free
    words there are none of these, but `written`: rows as they are trained on."""

    prompts: list[list[int]]
    answers: list[list[int]]
    targets: list[int]
    written: list[dict[str, Any]] = []

    @property
    def count(self) -> int:
        return len(self.prompts) or len(self.written)


class Steering(msgspec.Struct, frozen=True, kw_only=True):
    """What the evaluations have said so far."""

    best_step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 1e300  # JSON knows no infinity
    waited: int = 0  # evaluations without a rise of accuracy
    stopped: bool = False


def steer(now: Steering, step: int, accuracy: float, loss: float, *, patience: int, earliest: int) -> Steering:
    """Take in one evaluation. At equal accuracy the lower loss is the better checkpoint, but no rise.

    Args:
        patience: evaluations without a rise before it stops.
        earliest: evaluations before this step are not counted as waiting: the first steps warm up.
    """
    rose = accuracy > now.best_accuracy
    better = rose or (accuracy == now.best_accuracy and loss < now.best_loss)
    waited = 0 if rose or step < earliest else now.waited + 1
    return Steering(
        best_step=step if better else now.best_step,
        best_accuracy=accuracy if better else now.best_accuracy,
        best_loss=loss if better else now.best_loss,
        waited=waited,
        stopped=waited >= patience,
    )


class PackedCollator:
    """Collates rows of `input_ids` and `start` into one packed sequence with a batch dimension of 1."""

    def __init__(self, *, tree: bool) -> None:
        self._tree = tree

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        packed = pack([row["input_ids"] for row in rows], [row["start"] for row in rows])
        targets = packed.targets[None]
        # `labels` makes Trainer count what is learned, `shift_labels` says that they are not to be shifted
        return {**packed.inputs(tree=self._tree), "labels": targets, "shift_labels": targets}


class Steered(Trainer):
    """What every trainer of ours adds to TRL's; stands before it in the list of bases.

    Args:
        valid: what `evaluate` scores; None: it is not called.
        steered: whether validation is large enough to choose the checkpoint and to stop early.
        patience, earliest: see `steer`.
        write: called at each evaluation, to keep what the model writes for a few examples.
    """

    def __init__(
        self,
        *arguments: Any,
        valid: LabelledPrompts | None = None,
        steered: bool = False,
        patience: int = 3,
        earliest: int = 0,
        write: Callable[[Steered], None] | None = None,
        **options: Any,
    ) -> None:
        model = options["model"]
        exact = _exact(model)
        super().__init__(*arguments, **options)
        self.remove_callback(PrinterCallback)  # the journal tells more
        for name, parameter in model.named_parameters():
            if name in exact:
                parameter.data = exact[name].float()
            elif parameter.requires_grad:
                parameter.data = parameter.data.float()
        for module in model.modules():  # autocast casts by itself; PEFT, which does not see it on CPU, would cast twice
            if isinstance(module, BaseTunerLayer) and self.args.bf16:
                module.cast_input_dtype_enabled = False
        self.valid = valid
        self.steered = steered
        self.steering = Steering()
        self._patience, self._earliest = patience, earliest
        self._write = write

    def precision(self) -> torch.autocast:
        """The precision of training, for forwards outside of its loop."""
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.args.bf16)

    def label_scores(self, valid: LabelledPrompts) -> list[list[float]]:
        """Log-likelihood of every label for every validation prompt, in the precision of training."""
        with self.precision():
            packed = not can_pack(methods.base_of(self.model))
            return label_log_likelihoods(self.model, valid.prompts, valid.answers, packed=packed)

    def written_loss(self, rows: Sequence[dict[str, Any]]) -> float:
        """Mean loss a token of what is to be learned of the rows, in the precision of training."""
        size, total, tokens = self.args.per_device_train_batch_size, 0.0, 0
        was_training = self.model.training
        self.model.eval()
        try:
            for first in range(0, len(rows), size):
                part = rows[first : first + size]
                learned = sum(len(row["input_ids"]) - row["start"] for row in part)
                inputs = self._prepare_inputs(self.data_collator(part))
                with torch.no_grad(), self.precision():
                    total += float(self.compute_loss(self.model, inputs)) * learned
                tokens += learned
        finally:
            self.model.train(was_training)
        return total / tokens

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and accuracy over the label set, instead of the loss alone. Free words have no accuracy before they are
        written: their loss alone steers, as the mean probability of a token."""
        valid = self.valid
        if valid is None or not valid.count:
            return {}
        if valid.written:
            loss = self.written_loss(valid.written)
            accuracy = math.exp(-loss)
        else:
            loss, accuracy = loss_and_accuracy(self.label_scores(valid), valid)
        if self.steered:
            step = self.state.global_step
            self.steering = steer(self.steering, step, accuracy, loss, patience=self._patience, earliest=self._earliest)
            if self.steering.best_step == step:
                self._save_best(step)
        if self._write is not None:
            self._write(self)
        found = {f"{metric_key_prefix}_loss": loss}
        if not valid.written:
            found[f"{metric_key_prefix}_accuracy"] = accuracy
        self.log(found)
        before: Any = getattr(self, "control")  # noqa: B009 - untyped above
        control: Any = self.callback_handler.on_evaluate(self.args, self.state, before, found)
        control.should_training_stop |= self.steering.stopped
        control.should_save |= self.steering.stopped
        self.control = control
        return found

    def _save_best(self, step: int) -> None:
        if self.args.should_save:
            self._write_best(step)
        self.accelerator.wait_for_everyone()

    def _write_best(self, step: int) -> None:
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "best.part"
        shutil.rmtree(temporary, ignore_errors=True)
        methods.save(self.model, temporary)
        checkpoints.finish(temporary)
        shutil.rmtree(folder / f"best-{step}", ignore_errors=True)
        reached("train.best_written")
        temporary.rename(folder / f"best-{step}")

    def restore_best(self) -> int:
        """Put the weights of the best evaluation back, where validation steers; returns their step, 0 for none.

        Raises:
            StepError: they are not what was written.
        """
        step = self.steering.best_step
        if not self.steered or not step or step == self.state.global_step:
            return 0
        folder = Path(self.args.output_dir) / f"best-{step}"
        for file, problem in checkpoints.damage(folder):
            raise StepError(
                f"the best weights cannot be restored: {file} {problem}", hint="The next attempt trains on."
            )
        self._load_from_checkpoint(str(folder))
        return step

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            methods.save(self.model, folder)  # TRL's frozen copy of the start, in a folder of its own, is made again

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if (folder / checkpoints.COMPLETE).exists():
            return
        Trainer._save_checkpoint(self, model, trial)
        self.accelerator.wait_for_everyone()  # each process writes its random state
        if self.args.should_save:
            self._finish_checkpoint(folder)
        self.accelerator.wait_for_everyone()

    def _finish_checkpoint(self, folder: Path) -> None:
        write_json(folder / checkpoints.STEERING, self.steering)
        reached("train.checkpoint_written")
        checkpoints.finish(folder)
        reached("train.checkpoint_completed")
        steps = checkpoints.marked(folder.parent)
        for step in steps[:-KEEP]:
            shutil.rmtree(folder.parent / f"checkpoint-{step}", ignore_errors=True)
        # an older checkpoint can be gone on from only with the best weights of its own time
        wanted = {self.steering.best_step, *(checkpoints.best_of(folder.parent, step) for step in steps[-KEEP:])}
        for best in folder.parent.glob("best-*"):
            if best.name not in {f"best-{step}" for step in wanted}:
                shutil.rmtree(best, ignore_errors=True)

    def load_checkpoint(self, folder: Path) -> None:
        """Weights and steering of a complete checkpoint (the rest is restored by `train`)."""
        self._load_from_checkpoint(str(folder))
        self.steering = read_json(folder / checkpoints.STEERING, Steering)
        self.state.global_step = int(folder.name.removeprefix("checkpoint-"))


def _exact(model: Any) -> dict[str, torch.Tensor]:
    """Copies of what TRL would round: it casts the adapter of a 4-bit base to bf16, where small updates are lost."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return {}
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class PackedTrainer(Steered, SFTTrainer):
    """SFTTrainer with the loss of a packed micro-batch; a padded batch takes TRL's own path.

    Args:
        stratified: whether examples come as `adapters.order` has them, instead of shuffled.
    """

    def __init__(self, *arguments: Any, stratified: bool = False, **options: Any) -> None:
        self._stratified = stratified
        super().__init__(*arguments, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return Stratified(rows, seed) if self._stratified else super()._get_train_sampler(train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if "logits_to_keep" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["shift_labels"][0]
        outputs = model(
            **{key: value for key, value in inputs.items() if key not in ("labels", "shift_labels")}, use_cache=False
        )
        logits = outputs.logits[0].float()
        items = len(targets) if num_items_in_batch is None else num_items_in_batch
        loss = functional.cross_entropy(logits, targets, reduction="sum") / items
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the gradients are averaged over the devices
        with torch.no_grad():
            right = (logits.argmax(dim=-1) == targets).float().mean()
        self._metrics["train" if self.model.training else "eval"]["mean_token_accuracy"].append(float(right))
        return (loss, outputs) if return_outputs else loss


def loss_and_accuracy(scores: Sequence[Sequence[float]], valid: LabelledPrompts) -> tuple[float, float]:
    """Mean loss a token of the right labels, and the share of prompts whose best-scored label is right."""
    pairs = list(zip(scores, valid.targets, strict=True))
    tokens = sum(len(valid.answers[target]) for target in valid.targets)
    loss = -sum(row[target] for row, target in pairs) / tokens
    return loss, sum(max(row) == row[target] for row, target in pairs) / len(pairs)


def forget_unfit(folder: Path) -> int:
    """Remove checkpoints that are half written or damaged, also those whose best weights are; the step of the last
    one that is left, 0 for none."""
    fit = checkpoints.whole(folder)
    for path in folder.glob("checkpoint-*"):
        if path.name not in {f"checkpoint-{step}" for step in fit}:
            shutil.rmtree(path, ignore_errors=True)
    return fit[-1] if fit else 0


class Watch(TrainerCallback):
    """Between steps: writes the journal, shares the cores, stops on request and when the loss runs away."""

    def __init__(self, journal: Journal, threads: Threads, stopping: Stopping, steps: int, warmup: int) -> None:
        self._journal, self._threads, self._stopping = journal, threads, stopping
        self._steps, self._warmup = steps, warmup

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._threads.adjust()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        reached("train.step_done")
        if state.global_step % TRIM_EVERY == 0:
            trim_memory()  # batches of many shapes leave gaps that add up to a gigabyte
        asked = _anywhere(self._stopping.asked)
        if asked:
            control.should_training_stop = True
        if asked or state.global_step >= self._steps:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        step = state.global_step
        if "eval_loss" in logs:
            self._journal.write(
                Metric(
                    step=step,
                    of=self._steps,
                    eval_loss=logs["eval_loss"],
                    eval_accuracy=logs.get("eval_accuracy"),
                    phase="evaluate",
                )
            )
        elif "loss" in logs:
            loss = logs["loss"]
            finite = math.isfinite(loss)
            self._journal.write(
                Metric(
                    step=step,
                    of=self._steps,
                    loss=loss if finite else None,
                    learning_rate=logs.get("learning_rate"),
                    grad_norm=_finite(logs.get("grad_norm")),
                    reward=logs.get("reward"),
                    phase="train",
                )
            )
            losses = [line.loss for line in self._journal.lines if line.loss is not None]
            problem = runaway(losses, warmup=self._warmup) if finite else f"the loss is {loss}"
            if problem:
                raise Unrecoverable(
                    f"training diverged at step {step}: {problem}",
                    hint="Lower `training.learning_rate`, or look for damaged examples.",
                )


def runaway(losses: Sequence[float], *, warmup: int, window: int = 5) -> str:
    """Why the training loss counts as diverged; "" when it does not.

    After the warm-up, the mean of the last `window` losses must stay below twice that of the first ones.
    """
    if len(losses) < max(warmup, window) + window:
        return ""
    first, last = (sum(part) / window for part in (losses[:window], losses[-window:]))
    if last > 2 * first and last > 1.0:
        return f"the loss rose from {first:.2f} to {last:.2f}"
    return ""


def _anywhere(asked: bool) -> bool:
    """Whether any of the processes that train together was asked to stop: all of them end at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return asked
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(asked), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
